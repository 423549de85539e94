// Colours for the pack's socket types; the host gives unknown types grey.
import { app } from "../../scripts/app.js";

const COLOURS = {
  SUBJECT: "#2dd4bf",
  SUBJECT_ENCODER: "#0f9d8a",
  GILL_MODEL: "#8b5cf6",
  GILL_PROMPT: "#c084fc",
  GILL_EMBEDDING: "#e879a8",
  GILL_INDEX: "#b45c8a",
  MS_SUBJECTS: "#f2b134",
  MS_ADAPTER: "#b97d10",
};

app.registerExtension({
  name: "blip-diffusion-subjects.socket-colours",
  // For Nodes 2.0 and the preview of a node: a style sheet stays when another palette is chosen.
  init() {
    const style = document.createElement("style");
    const variables = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
    style.textContent = `:root { ${variables.join(" ")} }`;
    document.head.append(style);
  },
  // With every graph, as the colour palette of the settings is applied after the set-up and overwrites them.
  afterConfigureGraph() {
    Object.assign(app.canvas.default_connection_color_byType, COLOURS);
    Object.assign(LGraphCanvas.link_type_colors, COLOURS);
  },
});
