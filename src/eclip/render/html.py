"""Pages from templates: files of HTML, SVG, CSS and JavaScript that lie beside the module that fills them in."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@cache
def environment(package: str) -> Environment:
    """The templates of a package, whatever their suffix: values are escaped, and a name without a value is an error.

    In a template `{{ inline("style.css") }}` writes out a file as it is, and `{{ value|tojson }}` writes JSON that a
    `<script>` can hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader(package, "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    made.globals["inline"] = lambda file: Markup(loader.get_source(made, file)[0])
    return made


def render(module: str, template: str, **values: Any) -> Markup:
    """The template with its values, safe to be a value of another template.

    Args:
        module: `__name__` of a module that lies beside the template.
        template: the name of its file.
        values: every name that the template uses.
    """
    from markupsafe import Markup

    return Markup(environment(module.rpartition(".")[0]).get_template(template).render(values))
