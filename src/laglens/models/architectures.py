"""Where the class of each architecture lives. Free of torch: the workflow reads it too."""

from __future__ import annotations

from laglens.errors import LaglensError

# Named without the package, so that the code digest of a job holds the one module that its model uses, and no other.
ARCHITECTURES = {
    "image": ("patch", "ImageForecaster"),
    "numeric": ("patch", "NumericForecaster"),
    "encoder": ("encoder", "EncoderForecaster"),
    "encoder_decoder": ("encoder_decoder", "EncoderDecoderForecaster"),
    "factory": ("factory", "FactoryForecaster"),
    "patchtst": ("patchtst", "PatchTSTForecaster"),
    "time_series_transformer": ("time_series_transformer", "TimeSeriesTransformerForecaster"),
    "informer": ("informer", "InformerForecaster"),
    "autoformer": ("autoformer", "AutoformerForecaster"),
    "timesfm": ("timesfm", "TimesFMForecaster"),
    "vitime": ("vitime", "ViTimeForecaster"),
    "chronos_t5": ("chronos_t5", "ChronosT5Forecaster"),
    "chronos_bolt": ("chronos_bolt", "ChronosBoltForecaster"),
    "chronos_2": ("chronos_2", "Chronos2Forecaster"),
    "timm": ("timm_vit", "TimmTransformer"),
    "visionts": ("visionts", "VisionTSForecaster"),
}

WITH_CROSS_ATTENTION = {
    *("encoder_decoder", "time_series_transformer", "informer", "autoformer", "chronos_t5", "chronos_bolt"),
}

# Models that look at a picture of the series, and whose published form has a class token.
WITH_CLASS_TOKEN = {"vitime", "timm", "visionts"}

# Packages, beside numpy, timm and torch, whose version changes what a model computes.
PACKAGES = {
    **dict.fromkeys(("patchtst", "time_series_transformer", "informer", "autoformer", "timesfm"), ("transformers",)),
    **dict.fromkeys(("chronos_t5", "chronos_bolt", "chronos_2"), ("chronos-forecasting", "transformers")),
    "visionts": ("visionts",),
}

NO_ATTENTION = "it has no attention"
# Known models without attention over time, by name in lower case without punctuation.
REFUSED = {
    "itransformer": "its tokens are whole variates, so its attention has no lag axis",
    "patchtsmixer": "it mixes patches by multi-layer perceptrons, and the softmax of its gates weighs no keys",
    "tinytimemixer": "it mixes patches by multi-layer perceptrons, and the softmax of its gates weighs no keys",
    "tsmixer": "it mixes time steps by multi-layer perceptrons, not by attention",
    "timemixer": "it mixes time steps by multi-layer perceptrons, not by attention",
    "tirex": "it is an xLSTM, which has no attention",
    "xlstm": NO_ATTENTION,
    "deepar": NO_ATTENTION,
    "dlinear": NO_ATTENTION,
    "nlinear": NO_ATTENTION,
    "nbeats": NO_ATTENTION,
    "nhits": NO_ATTENTION,
    "tide": NO_ATTENTION,
    "timesnet": NO_ATTENTION,
}


def refuse(architecture: str) -> None:
    """Say why an architecture cannot be read, where that is known.

    Raises
    ------
    LaglensError
        The architecture has no attention over time.
    """
    reason = REFUSED.get("".join(letter for letter in architecture.lower() if letter.isalnum()))
    if reason:
        raise LaglensError(f"architecture '{architecture}' cannot be read: {reason}")


def module_and_class(architecture: str) -> tuple[str, str]:
    """Dotted module and class of an architecture; what follows a colon, as in ``timm:vit_tiny``, is an option.

    Raises
    ------
    LaglensError
        Unknown architecture, or one without attention over time.
    """
    family = architecture.partition(":")[0]
    refuse(family)
    if family not in ARCHITECTURES:
        raise LaglensError(f"architecture '{architecture}' is not one of {', '.join(ARCHITECTURES)}")
    module, kind = ARCHITECTURES[family]
    return f"laglens.models.{module}", kind
