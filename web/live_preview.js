// In Nodes 2.0 a node shows its last live preview above what it gave out. Subject Finetune's outcome has that picture
// in it, beside the curve, so the preview goes when the outcome is there.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeOf } from "./our_nodes.js";

app.registerExtension({
  name: "blip-diffusion-subjects.live_preview",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const id = detail.display_node ?? detail.node;
      if (nodeOf(id)?.type !== "SubjectFinetune") return;
      // The front end has no public call for it; where this store is another, both pictures stay.
      if (detail.output?.images) app.extensionManager._p?._s?.get("nodeOutput")?.revokePreviewsByExecutionId?.(id);
    });
  },
});
