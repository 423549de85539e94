// What went wrong, as its sentence alone: the host's own message says only that a node failed, or that it rejected a
// value. Errors of other packs are left to the host.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { definition, isOurs, nodeOf } from "./our_nodes.js";

const OURS = /\.blipdiff_impl\.(\w+\.)*errors\.\w+$/;
const takeAway = [];

function explain(id, type, sentence) {
  takeAway.push(toast(nodeOf(id)?.title ?? definition(type)?.display_name ?? type, sentence));
}

// Shows an error; what it returns takes the toast away again. Newer front ends know a toast by its number, older ones
// by the message itself.
function toast(summary, detail) {
  const toasts = app.extensionManager.toast;
  if (toasts.dismiss) {
    const number = toasts.error(summary, { description: detail });
    return () => toasts.dismiss(number);
  }
  const message = { severity: "error", summary, detail };
  toasts.add(message);
  return () => toasts.remove?.(message);
}

function clear() {
  for (const away of takeAway.splice(0)) away();
}

// The host lays a refusal on every input that took part in the check; the sentence begins with the one it is about.
function refusals(errors) {
  const kept = [];
  for (const error of errors) {
    const [, input, name, sentence] = error.details?.match(/^([\w.]+) - (\w+): ([^]*)$/) ?? [];
    if (error.type !== "custom_validation_failed" || !sentence) kept.push([error, null]);
    else if (input === name) kept.push([{ ...error, details: sentence }, sentence]);
  }
  return kept;
}

function explainRefusals(nodeErrors) {
  for (const [id, node] of Object.entries(nodeErrors ?? {})) {
    if (!isOurs(node.class_type)) continue;
    const kept = refusals(node.errors);
    node.errors = kept.map(([error]) => error);
    for (const [, sentence] of kept) if (sentence) explain(id, node.class_type, sentence);
  }
}

app.registerExtension({
  name: "blip-diffusion-subjects.explained",
  setup() {
    const queue = api.queuePrompt;
    api.queuePrompt = async function (...args) {
      clear();
      try {
        const answer = await queue.apply(this, args);
        explainRefusals(answer?.node_errors);
        return answer;
      } catch (error) {
        explainRefusals(error?.response?.node_errors);
        throw error;
      }
    };
    api.addEventListener("execution_error", ({ detail }) => {
      const { exception_type: kind, exception_message: sentence, node_type: type, node_id: id } = detail;
      const known = isOurs(type) && ["SubjectError", "CheckpointError", "NameTaken", "UnreadablePicture"].includes(kind);
      if (known || OURS.test(kind)) explain(id, type, sentence.trim());
      else if (kind === "ExecutionBlocked" && isOurs(type)) explain(id, type, sentence.replace(/^[^:]*: /, ""));
    });
  },
});
