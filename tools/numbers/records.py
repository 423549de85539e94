"""What was measured already, a line of JSON for each piece: a command that was stopped goes on where it was."""

import json

from blipdiff_impl.files import write_whole


class Records:
    """A file of lines `{"key": ..., "value": ...}`; what is cut off in it is left out."""

    def __init__(self, path):
        self._path, self._found = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                self._found[_text(record["key"])] = record["value"]
            except (ValueError, KeyError, TypeError):  # the line that an end of the command cut off
                continue
        kept = [json.dumps({"key": json.loads(key), "value": value}) + "\n" for key, value in self._found.items()]
        write_whole(path, "".join(kept).encode())

    def get(self, key, make):
        """The value of a key, made where it is not there; both are what JSON can say."""
        text = _text(key)
        if text not in self._found:
            self._found[text] = json.loads(json.dumps(make()))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": json.loads(text), "value": self._found[text]}) + "\n")
        return self._found[text]


def _text(key):
    return json.dumps(key, sort_keys=True)
