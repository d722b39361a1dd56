"""Write docs/rules/index.md: `python -m docs.rules_index`."""

from pathlib import Path

from builder.plan import TITLES
from builder.rules import rules

FILE = Path(__file__).parent / "rules" / "index.md"
FAMILIES = {
    "drivers": "Drivers of the hosts",
    "wheels": "Wheels and the base",
    "gpu_code": "Code for the GPU",
    "compiler": "Kernels that would be compiled at the start",
    "memory": "Memory and context",
    "quantisation": "Quantised weights",
    "quantisation_method": "Quantised weights",
    "precision": "Numbers, caches and attention",
    "attention": "Numbers, caches and attention",
    "parallel": "Several GPUs",
    "parallel_groups": "Several GPUs",
    "parallel_links": "Several GPUs",
    "arguments": "Flags and variables",
    "values": "Flags and variables",
    "unlisted": "Flags and variables",
    "parsers": "Flags and variables",
    "conflicts": "Flags and variables",
    "variables": "Flags and variables",
    "container": "The container",
    "origins": "Where it comes from",
    "advisories": "Where it comes from",
    "serving": "What is served",
}
"""Headings by module of `builder/rules`; a module without one has its name."""
HEAD = """# Rules

`builder check` judges a stack by these rules, on each of its GPUs: no network, no GPU.
`builder lock` refuses what they refuse.
What they know is in `builder/catalogue/`, each fact with its source.

A finding names the rule, the field and its line, what is so and who says so, and what to change.
For a cell that is refused, the nearest cell that works is searched:
the cheapest changes after which no rule refuses.

- `error`: it will not start, or not as asked.
- `warning`: it starts and will bite, or nobody knows.
- `note`: good to know.

A stack that knows better says so, with the reason, and the rule then warns instead:

```yaml
rules: {memory-fit: "measured on 2026-11-20: starts with 0.4 GiB to spare"}
```
"""


def text() -> str:
    """Return the page."""
    groups: dict[str, list[str]] = {}
    for rule in rules().values():
        family = rule.check.__module__.rpartition(".")[2]
        line = f"- [{rule.id}]({rule.id}.md): {rule.title}"
        groups.setdefault(FAMILIES.get(family, family), []).append(line)
    groups["Found by `builder plan`"] = [f"- [{n}]({n}.md): {t}" for n, t in TITLES.items()]
    parts = [f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in groups.items()]
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
