"""A card that records what it is given; the tests in tests/flow use Metaflow's own."""

import json


class RecordingCard:
    """Replaces `current.card["id"]`."""

    def __init__(self):
        self.components = []
        self.refreshes = 0

    def append(self, component):
        self.components.append(component)

    def refresh(self):
        self.refreshes += 1

    def text(self):
        """All that the components send to the browser, without the pictures."""
        rendered = [component.render() for component in self.components]
        words = json.dumps([part for part in rendered if part["type"] != "image"], allow_nan=False)
        return words.replace("\\u00a0", " ")

    def table(self, heading):
        """The rows of the first table after a heading, by their first cell."""
        rendered = iter([component.render() for component in self.components])
        next(part for part in rendered if heading in part.get("source", ""))
        rows = next(part for part in rendered if part["type"] == "table")["data"]
        return {row[0]: [cell.replace("\u00a0", " ") for cell in row[1:]] for row in rows}

    def n_bytes(self):
        return len(json.dumps([component.render() for component in self.components]))
