"""The commands of the early phase: is it Gaussian, and how far off may the start be."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import SampleSeed, bar, check_folder, friendly, say


def gaussianity(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/gaussianity"
    ),
    samples: Annotated[int, typer.Option(min=10, help="Samples at each level, of each process.")] = 1000,
    rank: Annotated[int | None, typer.Option(min=1, help="Leading directions that are tested; default 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the tests.")] = 0,
) -> None:
    """Test whether noised images, and a network's early samples, are Gaussian, at each level beside its nats."""
    with friendly():
        from latestart.experiments import gaussianity as experiment
        from latestart.files import write_json
        from latestart.report import early

        check_folder(out)
        with bar("testing") as advance:
            result = experiment.run(samples, seed, rank, progress=advance)
        write_json(out / "results.json", experiment.results(result))
        early.gaussianity(out / "gaussianity.png", result)
    say(f"the divergence from the prior passes 1 nat at t = {result.one_nat.t:.0f}")
    for process in experiment.PROCESSES:
        own, prior = (result.onset(process, hypothesis) for hypothesis in experiment.HYPOTHESES)
        say(f"{process}: any Gaussian is rejected {_below(own)}; the prior {_below(prior)}")
    say(f"wrote {out / 'gaussianity.png'} and {out / 'results.json'}")


def _below(t: int | None) -> str:
    return "at no level" if t is None else f"from t = {t} down"


def sensitivity(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/sensitivity"
    ),
    samples: Annotated[int, typer.Option(min=2, help="Samples from each start.")] = 500,
    step: Annotated[int, typer.Option(min=1, help="Between two starts, in t.")] = 25,
    seed: SampleSeed = 0,
) -> None:
    """Quality against the start of a late start: how wide is the window within 5% of the best, in t and in nats."""
    with friendly():
        from latestart.experiments import sensitivity as experiment
        from latestart.files import write_json
        from latestart.report import early

        check_folder(out)
        with bar("sampling") as advance:
            curves = experiment.run(samples, seed, step, progress=advance)
        write_json(out / "results.json", experiment.results(curves, samples, seed))
        early.sensitivity(out / "sensitivity.png", curves, samples)
    for curve in curves:
        w = curve.window
        least, most = (" at least" if not closed else "" for closed in w.closed)
        say(
            f"{curve.prior}, NFE {curve.nfe}: best at t = {w.best:.0f}, within 5% from{least} {w.low.value:.0f} "
            f"to{most} {w.high.value:.0f}: {w.width.value:.0f} wide, 95% interval [{w.width.low:.0f}, "
            f"{w.width.high:.0f}]; {w.nats_low:.2g} to {w.nats_high:.2g} nats"
        )
    say(f"wrote {out / 'sensitivity.png'} and {out / 'results.json'}")
