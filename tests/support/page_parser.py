"""Reads a page by Python's own HTML parser, as a test needs it: tables, text, ids, and what it would ask for."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Tables by label (heads, rows, foot, marked rows), text outside of style and script, and all attributes."""

    def __init__(self, text):
        super().__init__()
        self.raw, self.open = text, []
        self.tables, self.texts, self.attributes, self.scripts, self.styles = {}, [], [], [], []
        self.table, self.row, self.cell = None, None, None
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables[given["aria-label"]] = {"heads": [], "rows": [], "foot": [], "marked": []}
        elif tag == "tr" and "thead" not in self.open:
            self.row = []
            self.table["foot" if "tfoot" in self.open else "rows"].append(self.row)
            if "marked" in given.get("class", ""):
                self.table["marked"].append(self.row)
        elif tag in ("td", "th"):
            self.cell = []
            (self.table["heads"] if "thead" in self.open else self.row).append(self.cell)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"nothing is open to be closed by {tag}"
        assert self.open.pop() == tag, f"closes another element: {tag}"
        if tag in ("td", "th"):
            self.cell[:] = ["".join(self.cell).strip()]
            self.cell = None
        if tag == "table":
            for name in ("heads", "rows", "foot"):
                rows = self.table[name]
                self.table[name] = [cell[0] for cell in rows] if name == "heads" else [[c[0] for c in r] for r in rows]
            self.table["marked"] = [[cell[0] for cell in row] for row in self.table["marked"]]

    def handle_data(self, data):
        if "style" in self.open:
            self.styles.append(data)
        elif "script" in self.open:
            self.scripts.append(data)
        else:
            self.texts.append(data)
            if self.cell is not None:
                self.cell.append(data)

    def table_like(self, pattern):
        """The only table whose label fits."""
        (found,) = [table for label, table in self.tables.items() if re.search(pattern, label)]
        return found

    @property
    def ids(self):
        return [value for _, name, value in self.attributes if name == "id"]

    @property
    def outside(self):
        """Everything that a browser would ask another place for."""
        asked = [
            value
            for _, name, value in self.attributes
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href") and not value.startswith("#")
        ]
        styled = [value for _, name, value in self.attributes if name not in ("content",)] + self.styles
        asked += [url for value in styled for url in re.findall(r"url\(\s*['\"]?([^)'\"]+)", value) if url[0] != "#"]
        asked += [rule for text in self.styles for rule in re.findall(r"@import[^;]*", text)]
        asked += [
            call for text in self.scripts for call in re.findall(r"\b(?:fetch|XMLHttpRequest|import|WebSocket)\b", text)
        ]
        return [value for value in asked if value != "data:," and not value.startswith("data:image/png;base64,")]

    @property
    def dangling(self):
        """References to ids that are not there."""
        used = [value[1:] for _, name, value in self.attributes if name == "href" and value.startswith("#")]
        used += [name for _, _, value in self.attributes for name in re.findall(r"url\(#([^)]+)\)", value)]
        return sorted(set(used) - set(self.ids))


def check_page(page):
    """What holds for every page: nothing from outside, distinct ids, no reference without an end."""
    assert page.outside == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.dangling == []
    assert "http" not in "".join(value for _, name, value in page.attributes if name not in ("content",))
