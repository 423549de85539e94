// A fresh node of ours is as wide as its title, labels and values need. The front end's classic renderer gives every
// node the same width and cuts labels off where a value is long. A node of a saved graph keeps the size it has there.
import { app } from "../../scripts/app.js";
import { isOurs } from "./our_nodes.js";

const AROUND_WIDGET = 94; // margins, arrows, and what lies between label and value
const AROUND_TITLE = 66; // the dot that collapses a node
const WIDEST = 480; // a file's name can be of any length
const context = document.createElement("canvas").getContext("2d");

function widthOf(text, pixels) {
  context.font = `${pixels}px ${LiteGraph.NODE_FONT}`;
  return context.measureText(text).width;
}

function neededBy(widget) {
  if (widget.hidden || widget.element) return 0; // texts of several lines have no label
  const texts = [widget.label ?? widget.name, widget.value].map(String);
  return AROUND_WIDGET + widthOf(texts.join(""), LiteGraph.NODE_SUBTEXT_SIZE);
}

app.registerExtension({
  name: "blip-diffusion-subjects.room-for-labels",
  nodeCreated(node) {
    if (!isOurs(node.constructor.type)) return;
    const title = AROUND_TITLE + widthOf(node.title, LiteGraph.NODE_TEXT_SIZE);
    const needed = Math.min(WIDEST, Math.ceil(Math.max(title, ...(node.widgets ?? []).map(neededBy))));
    if (needed > node.size[0]) node.setSize([needed, node.size[1]]);
  },
});
