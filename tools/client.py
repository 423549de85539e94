"""Talk to a running host: convert a workflow, queue it, follow its progress, collect its pictures."""

import copy
import json
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import autograph
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tools.host import open_url
from tools.problems import Problem

EVENT_SECONDS = 5  # between two looks at whether the host is still alive
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class PromptResult:
    """What became of one queued prompt."""

    prompt_id: str = ""
    status: str = "rejected"  # or "success", "error", "interrupted"
    error: str = ""  # the sentence the user sees; empty when all went well
    failed_node: str = ""  # class of the node that raised it
    outputs: dict = field(default_factory=dict)  # node id -> what the node shows, as in the host's history
    pictures: list[Path] = field(default_factory=list)  # files of all saved and previewed pictures


class Client:
    """The requests of a front end, for one RunningHost."""

    def __init__(self, host):
        self.host = host
        self.url = host.url
        self.base_dir = host.base_dir
        self.log = host.log

    def get(self, path):
        """The JSON answer to a GET request."""
        with open_url(self.url + path) as answer:
            return json.load(answer)

    def object_info(self):
        """Every registered node class, as the front end sees it."""
        return self.get("/object_info")

    def to_api(self, workflow):
        """API form of a workflow in UI form: a path or the parsed JSON."""
        if not isinstance(workflow, dict):
            workflow = json.loads(Path(workflow).read_text(encoding="utf-8"))
        converted = autograph.convert(workflow, node_info=_with_open_choices(self.object_info()))
        prompt = json.loads(json.dumps(dict(converted), default=dict))
        for node in prompt.values():
            node["inputs"] = {name: _as_literal(value) for name, value in node["inputs"].items()}
        return prompt

    def run_workflow(self, workflow, timeout=600, on_progress=None):
        """Queue a workflow in UI form and wait for its end; see run_prompt."""
        return self.run_prompt(self.to_api(workflow), timeout, on_progress)

    def run_prompt(self, prompt, timeout=600, on_progress=None):
        """Queue an API prompt, wait for its end and return its PromptResult; a failing node is a result, not an error.

        on_progress(node_id, value, maximum) is called whenever the running node reports a step. Raises Problem when
        the host dies or the prompt is still running after `timeout` seconds.
        """
        client_id = uuid.uuid4().hex
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={client_id}"
        with connect(address, max_size=None, proxy=None, ping_interval=None) as events:
            result, prompt_id = self._queue(prompt, client_id)
            if prompt_id:
                self._follow(events, prompt_id, result, timeout, on_progress)
                self._read_history(result)
        return result

    def _queue(self, prompt, client_id):
        body = json.dumps({"prompt": prompt, "client_id": client_id}).encode()
        request = urllib.request.Request(self.url + "/prompt", data=body, headers={"Content-Type": "application/json"})
        try:
            with open_url(request) as answer:
                queued = json.load(answer)
        except urllib.error.HTTPError as refusal:
            reply = refusal.read().decode(errors="replace")
            if refusal.code != 400:
                raise Problem(f"ComfyUI answered {refusal.code} to the prompt: {reply}") from refusal
            return _rejection(json.loads(reply)), None
        return _rejection(queued, prompt_id=queued["prompt_id"]), queued["prompt_id"]

    def _follow(self, events, prompt_id, result, timeout, on_progress):
        """Read events until the host says that nothing of the prompt is left to run."""
        deadline = time.monotonic() + timeout
        while True:
            if time.monotonic() > deadline:
                raise Problem(f"The prompt was not finished after {timeout} s; the log is {self.host.log_path}.")
            event = self._next_event(events)
            data = event.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            if event["type"] == "progress" and on_progress:
                on_progress(data["node"], data["value"], data["max"])
            elif event["type"] == "executing" and data["node"] is None:
                return
            elif event["type"] in ENDINGS:
                _note_ending(result, event["type"], data)

    def _next_event(self, events):
        try:
            message = events.recv(timeout=EVENT_SECONDS)
        except TimeoutError:
            self.host.require_alive()
            return {}
        except ConnectionClosed as closed:
            time.sleep(1)  # a dying process needs a moment before its status can be read
            self.host.require_alive()
            raise Problem(f"ComfyUI closed the connection; its log is {self.host.log_path}.") from closed
        return json.loads(message) if isinstance(message, str) else {}

    def _read_history(self, result):
        entry = self.get(f"/history/{result.prompt_id}")[result.prompt_id]
        if result.status == "rejected":  # the ending event came before this client listened
            result.status = entry["status"]["status_str"]
        result.outputs = entry["outputs"]
        result.pictures = [
            self.base_dir / picture["type"] / picture["subfolder"] / picture["filename"]
            for shown in result.outputs.values()
            for picture in shown.get("images", [])
        ]


def _with_open_choices(object_info):
    """`object_info` with no choices listed. The converter would silently put the default in place of a choice that the
    host does not offer, such as a missing model; this way it keeps the value, and the host refuses it by name."""
    opened = copy.deepcopy(object_info)
    for node in opened.values():
        for inputs in node["input"].values():
            for name, (kind, *options) in inputs.items():
                if kind == "COMBO" or isinstance(kind, list):
                    inputs[name] = ["COMBO", {**(options[0] if options else {}), "options": []}]
    return opened


def _rejection(reply, prompt_id=""):
    """PromptResult that carries the validation errors of the host's reply, if any."""
    found = [
        (node["class_type"], error["message"], error.get("details", ""))
        for node in reply.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    sentences = [f"{node}: {message}: {details}".rstrip(": ") for node, message, details in found]
    if not sentences and "error" in reply:
        sentences = [f"{reply['error']['message']}: {reply['error'].get('details', '')}".rstrip(": ")]
    return PromptResult(prompt_id, error="; ".join(sentences), failed_node=found[0][0] if found else "")


def _note_ending(result, kind, data):
    if kind == "execution_error":
        result.status = "error"
        result.error = data["exception_message"].strip()
        result.failed_node = data["node_type"]
    elif result.status == "rejected":  # a blocked output reports an error first and a success afterwards
        result.status = "success" if kind == "execution_success" else "interrupted"


def _as_literal(value):
    """A list that is no link, wrapped as the host asks for it and as the front end sends it."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
    return {"__value__": value} if isinstance(value, list) and not is_link else value
