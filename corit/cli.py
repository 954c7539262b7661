"""The command ``corit``: train a forgery detector, test it, score images and videos, and ablate its parts.

The commands read options and call the packages; ``console.py`` prints the results. Heavy imports stay inside the
functions, so that ``--help`` is fast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsnr_toolkit.commands.common import EXIT_ERROR, run_command
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import check_folder

if TYPE_CHECKING:
    from corit.model.trained import Trained
    from corit.training.config import DetectorTraining

EXIT_UNSCORED, EXIT_INTERRUPTED = 1, 130

#: Environment variable with the folder of cached features.
CACHE_VARIABLE = "CORIT_CACHE"

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False, no_args_is_help=True
)

_WHAT, _WORK, _OUTPUT = "What", "Work", "Output"


def _opt(panel: str, text: str, *names: str, **extra: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **extra)


_Detector = Annotated[
    Path | None, _opt(_WHAT, "A .safetensors file of corit train. Default: the demo detector.", "--detector", "-D")
]
_EncoderWeights = Annotated[
    str | None, _opt(_WHAT, "The encoder's weights, if they have moved: a file, or a tag of open_clip.")
]
_Device = Annotated[str | None, _opt(_WORK, "cpu, cuda, cuda:1, ... Default: a GPU if available.")]
_Cache = Annotated[
    Path | None, _opt(_WORK, f"Folder of cached features. Default: ${CACHE_VARIABLE}, else ~/.cache/corit.")
]
_NoCache = Annotated[bool, _opt(_WORK, "Keep features in memory only.", "--no-cache")]
_Quiet = Annotated[bool, _opt(_OUTPUT, "No progress bars and notes.", "--quiet", "-q")]
_Root = Annotated[Path | None, _opt(_WHAT, "Folder of the real data sets. Default: $GSNR_DATA.")]
_Set = Annotated[list[str] | None, _opt(_WHAT, "FIELD=VALUE for any other setting; see --list.", "--set", "-s")]
_List = Annotated[bool, _opt(_OUTPUT, "List every setting with its meaning and default.", "--list")]


@app.callback()
def corit_command() -> None:
    """CoRIT: detect forged faces by regions of contrast on a frozen CLIP encoder.

    Try it: [bold]corit predict picture.png[/bold] uses the small demo detector that ships with the package.
    """


@app.command("train")
def train_command(
    out: Annotated[Path | None, _opt(_OUTPUT, "Folder; the same command resumes from it.", "--out", "-o")] = None,
    data: Annotated[str | None, _opt(_WHAT, "Data set to train on. Default: demo-df.", "--data", "-d")] = None,
    data_root: _Root = None,
    encoder: Annotated[str | None, _opt(_WHAT, "Encoder. Default: clip-demo.", "--encoder", "-e")] = None,
    method: Annotated[
        str | None, _opt(_WHAT, "corit, probe, norms, last-K, full, sbi. Default: corit.", "--method", "-m")
    ] = None,
    fakes: Annotated[
        str | None, _opt(_WHAT, "sbi: self-blended real images only; given: the data's forgeries. Default: sbi.")
    ] = None,
    rho: Annotated[str | None, _opt(_WHAT, "SAM's radius, 0 for plain AdamW, or auto. Default: 0.")] = None,
    steps: Annotated[str | None, _opt(_WHAT, "Training steps. Default: 600.")] = None,
    seed: Annotated[str | None, _opt(_WHAT, "Seed of the head and the order. Default: 0.")] = None,
    evaluate: Annotated[str | None, _opt(_WHAT, "Data sets to test on besides, with commas.", "--eval")] = None,
    settings: _Set = None,
    cache: _Cache = None,
    no_cache: _NoCache = False,
    device: _Device = None,
    quiet: _Quiet = False,
    show_list: _List = False,
) -> None:
    """Train a detector on self-blended real images, or on given forgeries.

    Writes selected.safetensors (best on validation data) and last.safetensors, and tests both. Example:

    corit train --data demo-df --rho 0.05 --eval demo-nt,demo-gan --out my-detector
    """  # noqa: DOC501 - shown by --help
    if show_list:
        _print_settings()
        return
    if out is None:
        raise ProbeError("expected a folder for the detector, got none; add --out DIR")
    given: dict[str, Any] = {"data": data, "encoder": encoder, "method": method, "fakes": fakes}
    given |= {"rho": rho, "steps": steps, "seed": seed, "eval_data": evaluate, "data_root": data_root}
    config = _config(given, settings)
    from corit.training.train import train_detector

    where = _cache(cache, no_cache)
    result = train_detector(config, out, device=device, cache=where, progress=not quiet)
    from corit.console import show_training

    show_training(result, out)


@app.command("eval")
def eval_command(
    detector: _Detector = None,
    data: Annotated[
        str, _opt(_WHAT, "Data sets to test on, with commas; demo: the embedded ones.", "--data", "-d")
    ] = "demo",
    data_root: _Root = None,
    split: Annotated[str, _opt(_WHAT, "train, val or test.")] = "test",
    samples: Annotated[int | None, _opt(_WHAT, "Images of each set, half of them real. Default: all.", min=4)] = None,
    frames_per_video: Annotated[
        int | None, _opt(_WHAT, "Frames of each video (data on disk). Default: 1.", min=1)
    ] = None,
    robustness: Annotated[
        str | None, _opt(_WHAT, "Also test on degraded images: all, or for example jpeg=50,blur=1,resize=0.5,noise=5.")
    ] = None,
    encoder_weights: _EncoderWeights = None,
    draws: Annotated[int, _opt(_WORK, "Bootstrap draws over videos; 0 for no intervals.", min=0)] = 1000,
    cache: _Cache = None,
    no_cache: _NoCache = False,
    device: _Device = None,
    level: Annotated[str, _opt(_OUTPUT, "Level to print: video or frame; both are saved.")] = "video",
    out: Annotated[Path | None, _opt(_OUTPUT, "Folder for results.csv and scores.csv.", "--out", "-o")] = None,
    quiet: _Quiet = False,
) -> None:
    """Test a detector: AUC, AP, EER, accuracy and calibration by frame and by video, with intervals over videos."""
    if level not in ("video", "frame"):
        raise ProbeError(f"expected --level video or frame, got {level!r}; use --level video or --level frame")
    from corit.scoring.evaluate_many import evaluate_many, expand_names, read_perturbations

    wanted = read_perturbations(robustness)
    names = expand_names(data)
    check_folder(out)
    trained = _load(detector, encoder_weights, device)
    options = {"split": split, "size": samples, "frames_per_video": frames_per_video, "root": data_root}
    found = evaluate_many(
        trained,
        names,
        {name: value for name, value in options.items() if value is not None},
        perturbations=wanted,
        cache=_cache(cache, no_cache),
        draws=draws,
        out=out,
        progress=not quiet,
    )
    from corit.console import show_evaluation

    show_evaluation(found, level, out)


@app.command("predict")
def predict_command(
    inputs: Annotated[
        list[str], typer.Argument(help="Images, folders, patterns ('shots/*.png') and videos.", metavar="FILE...")
    ],
    detector: _Detector = None,
    encoder_weights: _EncoderWeights = None,
    frames: Annotated[int, _opt(_WHAT, "Frames of each video, evenly spaced.", min=1)] = 16,
    crop: Annotated[str, _opt(_WHAT, "none, or face: crop the largest face that OpenCV finds.")] = "none",
    face_model: Annotated[Path | None, _opt(_WHAT, "YuNet's ONNX file for --crop face.")] = None,
    device: _Device = None,
    out: Annotated[
        Path | None, _opt(_OUTPUT, "Folder for scores.csv, frames.csv and heat maps.", "--out", "-o")
    ] = None,
    heatmaps: Annotated[bool, _opt(_OUTPUT, "Draw heat maps of regions (into the folder of --out).")] = True,
    as_json: Annotated[bool, _opt(_OUTPUT, "Print only the scores on stdout, as JSON.", "--json")] = False,
    quiet: _Quiet = False,
) -> None:
    """Score images and videos; with --out, save scores and heat maps of each region's contribution.

    Exit code 1 if a file could not be scored; the output lists it with the reason.
    """  # noqa: DOC501 - shown by --help
    if crop not in ("none", "face"):
        raise ProbeError(f"expected --crop none or face, got {crop!r}; use --crop none or --crop face")
    if face_model is not None and crop == "none":
        raise ProbeError("expected --crop face with --face-model, got --crop none; add --crop face")
    from corit.prediction.media import find_inputs

    find_inputs(inputs)  # refuse wrong paths before loading a model
    check_folder(out)
    trained = _load(detector, encoder_weights, device)
    from corit.console import show_predictions
    from corit.prediction.crop import FaceCropper
    from corit.prediction.predict import predict_files, save_predictions

    where = out if heatmaps and trained.has_regions else None
    found = predict_files(
        trained,
        inputs,
        heatmaps=where,
        frames_per_video=frames,
        cropper=FaceCropper(face_model) if crop == "face" else None,
        device=_device(device),
        progress=not quiet,
    )
    if out is not None:
        save_predictions(found, out)
    show_predictions(found, trained, out, as_json=as_json, asked_for_maps=heatmaps)
    if found.files["probability"].isna().any():
        raise typer.Exit(EXIT_UNSCORED)


@app.command("ablate")
def ablate_command(
    out: Annotated[Path | None, _opt(_OUTPUT, "Folder; the same command resumes from it.", "--out", "-o")] = None,
    vary: Annotated[
        list[str] | None,
        _opt(_WHAT, "parts, or FIELD=VALUE,VALUE,...; several fields give every combination.", "--vary", "-v"),
    ] = None,
    seeds: Annotated[int, _opt(_WHAT, "Trainings of each variant.", min=1)] = 1,
    data: Annotated[str | None, _opt(_WHAT, "Data set to train on. Default: demo-df.", "--data", "-d")] = None,
    data_root: _Root = None,
    encoder: Annotated[str | None, _opt(_WHAT, "Encoder. Default: clip-demo.", "--encoder", "-e")] = None,
    evaluate: Annotated[str | None, _opt(_WHAT, "Data sets to test on besides, with commas.", "--eval")] = None,
    settings: _Set = None,
    cache: _Cache = None,
    device: _Device = None,
    quiet: _Quiet = False,
) -> None:
    """Train variants on cached features, and compare them to see what each part of the detector contributes.

    Example: corit ablate --vary rho=0,0.01,0.05 --vary num_regions=0,4 --seeds 3 --out study
    """  # noqa: DOC501 - shown by --help
    if out is None:
        raise ProbeError("expected a folder for the trainings, got none; add --out DIR")
    config = _config({"data": data, "encoder": encoder, "eval_data": evaluate, "data_root": data_root}, settings)
    from corit.training.ablate import PARTS, ablate, grid_variants, summarise

    axes = _axes(vary or ["parts"])
    variants = PARTS if axes is None else grid_variants(axes)
    table = ablate(config, variants, out, seeds=seeds, cache=_cache(cache, False), device=device, progress=not quiet)
    from corit.console import show_ablation

    show_ablation(summarise(table), out)


@app.command("proxy-check")
def proxy_check_command(
    data: Annotated[str, _opt(_WHAT, "Data sets, with commas; demo: the embedded ones.", "--data", "-d")] = (
        "demo-df,demo-nt"
    ),
    data_root: _Root = None,
    encoder: Annotated[str, _opt(_WHAT, "Encoder.", "--encoder", "-e")] = "clip-demo",
    encoder_weights: _EncoderWeights = None,
    steps: Annotated[str, _opt(_WHAT, "Steps of full fine-tuning at which to measure, with commas.")] = "0",
    samples: Annotated[int, _opt(_WHAT, "Images of each set, half of them real.", min=8)] = 256,
    pool: Annotated[str, _opt(_WHAT, "Tokens of the CGP: class, mean or tokens.")] = "class",
    layerwise: Annotated[str, _opt(_WHAT, "The true GSNR: parameters or readout.")] = "parameters",
    device: _Device = None,
    out: Annotated[Path | None, _opt(_OUTPUT, "Folder for the tables.", "--out", "-o")] = None,
    quiet: _Quiet = False,
) -> None:
    """Compare the proxy GSNR with the true one, by rank correlations over layers, data sets and steps.

    Example: corit proxy-check --data demo-df,demo-nt,demo-fs --steps 0,100,200 --out proxy
    """
    from corit.proxy.run import read_steps, run_proxy_check, save_check
    from corit.scoring.evaluate_many import expand_names

    chosen: dict[str, Any] = {"weights": encoder_weights, "root": data_root, "steps": read_steps(steps)}
    chosen |= {"samples": samples, "pool": pool, "layerwise": layerwise}
    names = expand_names(data)
    check_folder(out)
    found = run_proxy_check(encoder, names, **chosen, device=_device(device), progress=not quiet)
    if out is not None:
        save_check(found, out, {"encoder": encoder, "data": names, **chosen, "root": str(data_root or "")})
    from corit.console import show_proxy_check

    show_proxy_check(found, out)


def _axes(vary: Sequence[str]) -> dict[str, list[str]] | None:
    """Return the values to vary, as text; None for the parts of CoRIT."""
    if list(vary) == ["parts"]:
        return None
    axes: dict[str, list[str]] = {}
    for item in vary:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        values = [part.strip() for part in text.split(",")]
        if not equals or not all(values):
            raise ProbeError(f"expected --vary parts alone, or --vary FIELD=VALUE,VALUE,..., got {item!r}; fix --vary")
        if name in axes:
            raise ProbeError(f"expected each field once, got --vary {name} twice; put its values together with commas")
        axes[name] = values
    return axes


def _config(given: dict[str, Any], settings: list[str] | None) -> DetectorTraining:
    """Build the config from options, None where not given, and from --set."""
    from corit.training.config import DetectorTraining

    values: dict[str, Any] = {name: str(value) for name, value in given.items() if value is not None}
    for item in settings or []:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ProbeError(f"expected --set FIELD=VALUE, got {item!r}; see corit train --list")
        if name in values:
            raise ProbeError(f"expected {name} once, got it as an option and as --set {item}; leave one of them out")
        values[name] = text.strip()
    return DetectorTraining.from_dict(values)


def _load(path: Path | None, weights: str | None, device: str | None) -> Trained:
    from corit.model.trained import DEMO_FILE, load_trained

    trained = load_trained(DEMO_FILE if path is None else path, weights=weights, device=_device(device))
    if trained.is_demo:
        typer.echo(
            "demo detector: trained on drawn faces of 64 pixels, so its scores of photographs are meaningless "
            "(train your own: corit train)",
            err=True,
        )
    return trained


def _device(name: str | None) -> Any:
    import torch

    from gsnr_toolkit.inputs.device import find_device

    return find_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _cache(folder: Path | None, none: bool) -> Path | None:
    if none:
        if folder is not None:
            raise ProbeError(f"expected --cache or --no-cache, got both ({folder}); leave one of them out")
        return None
    return (folder or Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/corit")).expanduser()


def _print_settings() -> None:
    from corit.training.config import DetectorTraining
    from gsnr_toolkit.support.settings import describe_settings

    for name, text in describe_settings(DetectorTraining).items():
        typer.echo(f"{name:<18} {text}")


def main() -> None:
    """Run ``corit``; a usage error becomes one message and exit code 2, without a traceback."""
    try:
        run_command(app, "gsnr_toolkit|corit")
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        typer.echo("error: expected OpenCV, got none; run pip install 'gsnr-toolkit[corit]'", err=True)
        raise SystemExit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes from what is saved", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()
