// Colours for the pack's two socket types; the host gives unknown types grey.
import { app } from "../../scripts/app.js";

const COLOURS = { SUBJECT: "#2dd4bf", SUBJECT_ENCODER: "#0f9d8a" };

app.registerExtension({
  name: "blip-diffusion-subjects.socket-colours",
  // With every graph, as the colour palette of the settings is applied after the set-up and overwrites them.
  afterConfigureGraph() {
    Object.assign(app.canvas.default_connection_color_byType, COLOURS);
    Object.assign(LGraphCanvas.link_type_colors, COLOURS);
  },
});
