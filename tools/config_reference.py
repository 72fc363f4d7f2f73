"""Writes docs/config.md, all settings with their defaults, from the comments in pruned_train_config.py."""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.config import Config
from lib.files import write_text

SOURCE, PAGE = ROOT / "pruned_train_config.py", ROOT / "docs" / "config.md"
_HEADING = re.compile(r"# --- (?P<title>.+?) -+$")
_OPENING = """# Every setting

Assign to `config.SECTION.key` in a config file, or give `SECTION.key=value` on the command line. Defaults are those of
`Config()`; `pruned_train_config.py`, from whose comments `python tools/config_reference.py` makes this page, sets some
otherwise for its small sample run.
"""


def page() -> str:
    """The page's text."""
    text = SOURCE.read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    lines = [_OPENING]
    for node in _assignments(text):
        above, number = list[str](), node.lineno - 1
        while number in comments and text.splitlines()[number - 1].startswith("#"):
            if heading := _HEADING.fullmatch(comments[number]):
                lines += [f"\n## {heading['title'][0].upper()}{heading['title'][1:]}\n"]
                break
            above.insert(0, comments[number])
            number -= 1
        beside = [
            comments[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in comments
        ]
        said = " ".join(comment.removeprefix("#").strip() for comment in (*above, *beside))
        section, key = _name(node)
        default = getattr(getattr(Config(), section), key)
        lines.append(f"- `{section}.{key}` = `{default!r}`{': ' + _without_default(said) if said else ''}\n")
    return "".join(lines)


def _assignments(text: str) -> Iterator[ast.Assign]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            yield node


def _name(node: ast.Assign) -> tuple[str, str]:
    target = node.targets[0]
    assert isinstance(target, ast.Attribute) and isinstance(target.value, ast.Attribute)
    return target.value.attr, target.attr


def _without_default(said: str) -> str:
    return re.sub(r" \(default: [^()]*\)", "", re.sub(r" \(default: ([^()]*); ", " (", said))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    write_text(PAGE, page())
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
