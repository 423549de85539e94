// Which nodes are this pack's, and where the node of an id that the host speaks of lies.
import { app } from "../../scripts/app.js";

const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));

export function definition(type) {
  return LiteGraph.registered_node_types[type]?.nodeData;
}

export function isOurs(type) {
  return definition(type)?.python_module === `custom_nodes.${FOLDER}`;
}

// "12:5" is node 5 in the subgraph of node 12.
export function nodeOf(id) {
  let node;
  let graph = app.rootGraph ?? app.graph;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById?.(part);
    graph = node?.subgraph;
  }
  return node;
}
