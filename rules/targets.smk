# What the study asks for.


def exported():
    """Windows for the models that run in another environment."""
    pairs = (pair for pair in STUDY.pairs if pair[0] in RECORDED)
    return [f"results/windows/{model}/{signal}.npz" for model, signal in pairs]


def claimed():
    """Everything that the claims make."""
    if STUDY.claims.models:
        yield "results/claims/summary.csv"
        yield from figure("claims/claims")


def calibrated():
    """Everything that the calibration makes."""
    if STUDY.calibration.models:
        yield "results/calibration/summary.csv"
        yield from figure("calibration/rates")
        yield from figure("calibration/knock_out")


def targets():
    """Everything that the study asks for."""
    for model, signal in STUDY.pairs:
        stages = ["lags", "heads", "flow"]
        if model in FORECASTING:
            stages += ["attribution"]
            yield f"results/lags/{model}/{signal}.verdicts.csv"
            yield f"results/attribution/{model}/{signal}.knock_out.csv"
            if signal in PANELS:
                yield f"results/lags/{model}/{signal}.series.csv"
            for name in (
                "verdicts",
                "knock_out",
                "agreement",
                "density",
                "forecasts",
                "explanations",
            ):
                yield from figure(f"{model}/{signal}/{name}")
        if model in CROSSED:
            yield from figure(f"{model}/{signal}/alignment")
        for stage in stages:
            yield f"results/{stage}/{model}/{signal}.csv"
        kinds = ["classes", "similarity"]
        if model in FORECASTING:
            kinds += ["importance"]
        if model in CROSSED:
            kinds += ["alignment"]
        if signal in EVENTFUL:
            kinds += ["events"]
            yield from figure(f"{model}/{signal}/events")
        if model in SEEING:
            kinds += ["cls"]
            yield from figure(f"{model}/{signal}/class_token")
        for kind in kinds:
            yield f"results/heads/{model}/{signal}.{kind}.csv"
        for name in ("head_sheet", "mosaic", "lag_strip", "flow", "arcs", "similarity"):
            yield from figure(f"{model}/{signal}/{name}")
    for model in dict.fromkeys(model for model, _ in STUDY.pairs):
        yield from figure(f"{model}/layers")
    if any(model in FORECASTING for model, _ in STUDY.pairs):
        yield "results/attribution/ranking.csv"
    forecasting = (fit_of(*pair) for pair in STUDY.pairs if pair[0] in FORECASTING)
    for fit in dict.fromkeys(forecasting):
        yield f"results/lags/{fit}.tracking.csv"
        yield from figure(f"{fit}/tracking")
    trained = (pair for pair in STUDY.pairs if pair[0] not in LOADED | RECORDED)
    fits = (fit_of(*pair) for pair in trained)
    for fit in dict.fromkeys(fits):
        yield from figure(f"{fit}/training")
    for distribution in STUDY.distributions:
        yield f"results/distributions/{distribution}.answers.csv"
        yield from figure(f"distributions/{distribution}")
    for comparison in STUDY.comparisons:
        yield f"results/comparisons/{comparison}.csv"
        yield from figure(f"comparisons/{comparison}")
    yield from ("results/summary.csv", "results/summary.html", "results/explorer.html")
