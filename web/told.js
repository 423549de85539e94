// What a node of ours has told stays on it until it runs again. Newer front ends take all such texts away when a run
// ends; older ones leave them.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { isOurs, nodeOf } from "./our_nodes.js";

const WIDGET = "$$node-text-preview";
const told = new Map(); // id in the run -> {node, text}

function tellAgain() {
  for (const [nodeId, { node, text }] of told) {
    if (nodeOf(nodeId) !== node) continue; // another workflow is shown
    if (!node.widgets?.some(({ name }) => name === WIDGET)) api.dispatchCustomEvent("progress_text", { nodeId, text });
  }
}

app.registerExtension({
  name: "blip-diffusion-subjects.told",
  setup() {
    api.addEventListener("progress_text", ({ detail: { nodeId, text } }) => {
      const node = nodeOf(nodeId);
      if (text && isOurs(node?.type)) told.set(String(nodeId), { node, text });
    });
    api.addEventListener("executing", ({ detail }) => told.delete(String(detail)));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => setTimeout(tellAgain)); // after the front end's own clearing
    }
  },
});
