"""Where the class of each architecture lives. Free of torch: the workflow reads it too."""

from __future__ import annotations

from laglens.errors import LaglensError

# Named without the package, so that the code digest of a job holds the one module that its model uses, and no other.
ARCHITECTURES = {
    "image": ("patch", "ImageForecaster"),
    "numeric": ("patch", "NumericForecaster"),
    "encoder": ("encoder", "EncoderForecaster"),
}


def module_and_class(architecture: str) -> tuple[str, str]:
    """Dotted module and class of an architecture; what follows a colon, as in ``timm:vit_tiny``, is an option.

    Raises
    ------
    LaglensError
        Unknown architecture.
    """
    family = architecture.partition(":")[0]
    if family not in ARCHITECTURES:
        raise LaglensError(f"architecture '{architecture}' is not one of {', '.join(ARCHITECTURES)}")
    module, kind = ARCHITECTURES[family]
    return f"laglens.models.{module}", kind
