// What we have told on a node stays on it until the node runs again, and no longer. Newer front ends take all such texts
// away when a run ends; older ones leave them for good.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeOf } from "./our_nodes.js";

const WIDGET = "$$node-text-preview";
const told = new Map(); // id in the run -> {node, text}; samplers of the host are among them

const placeOf = ({ widgets }) => (widgets ?? []).findIndex(({ name }) => name === WIDGET);

function tellAgain() {
  for (const [nodeId, { node, text }] of told) {
    if (nodeOf(nodeId) !== node) continue; // another workflow is shown
    if (placeOf(node) < 0) api.dispatchCustomEvent("progress_text", { nodeId, text });
  }
}

function takeAway(nodeId) {
  const node = told.get(nodeId)?.node;
  told.delete(nodeId);
  const place = node && nodeOf(nodeId) === node ? placeOf(node) : -1;
  if (place < 0) return;
  const [widget] = node.widgets.splice(place, 1);
  widget.onRemove?.();
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "blip-diffusion-subjects.told",
  setup() {
    api.addEventListener("blip-diffusion-subjects.told", ({ detail: { node: nodeId, text } }) => {
      const node = nodeOf(nodeId);
      if (node) told.set(nodeId, { node, text });
    });
    api.addEventListener("executing", ({ detail }) => takeAway(String(detail)));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => setTimeout(tellAgain)); // after the front end's own clearing
    }
  },
});
