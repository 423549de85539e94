// What went wrong, as its sentence alone: the host's own message says only that a node failed, or that it rejected a
// value. Errors of other packs are left to the host.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const OURS = /\.blipdiff_impl\.(\w+\.)*errors\.\w+$/;
let shown = [];

function definition(type) {
  return LiteGraph.registered_node_types[type]?.nodeData;
}

function isOurs(type) {
  return definition(type)?.python_module === `custom_nodes.${FOLDER}`;
}

function explain(id, type, sentence) {
  const node = String(id).includes(":") ? null : app.graph?.getNodeById?.(id);
  const message = { severity: "error", summary: node?.title ?? definition(type)?.display_name ?? type, detail: sentence };
  shown.push(message);
  app.extensionManager.toast.add(message);
}

function clear() {
  for (const message of shown) app.extensionManager.toast.remove?.(message);
  shown = [];
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
