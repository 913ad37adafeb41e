"""Pages from templates: HTML, SVG, CSS and JavaScript files next to the module that fills them in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@cache
def environment(package: str) -> Environment:
    """The template environment of a package: values are escaped for any suffix, and undefined names are errors.

    In a template, `{{ inline("style.css") }}` inserts a file unchanged, and `{{ value|tojson }}` inserts JSON that is
    safe inside `<script>`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader(package, "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    made.globals["inline"] = lambda file: Markup(loader.get_source(made, file)[0])
    return made


def render(module: str, template: str, **values: Any) -> Markup:
    """Render a template; the result can be a value of another template.

    Args:
        module: `__name__` of a module in the same folder as the template.
        template: file name of the template.
        values: a value for every name that the template uses.
    """
    from markupsafe import Markup

    return Markup(environment(module.rpartition(".")[0]).get_template(template).render(values))


def generate(module: str, template: str, **values: Any) -> Iterator[str]:
    """As `render`, in parts, so that a page whose values come from an iterator need not fit into memory."""
    return environment(module.rpartition(".")[0]).get_template(template).generate(values)
