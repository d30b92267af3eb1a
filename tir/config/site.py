"""The section `site` of a profile: Python interpreters, container images and endpoints of a machine or cluster.

It is not part of the experiment, so an edit reruns nothing, with two exceptions. `images.base` and `images.hardware`
rebuild the base image. `judge_endpoint` and `helper_endpoint` decide whether a model's weights are an input of the jobs
that ask it: when one is set or removed, these jobs run again, the judge's from its cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from tir.common.errors import ConfigError
from tir.common.schema import Model, valid_address
from tir.config.errors import render_errors

Address = Annotated[str, Field(pattern=r"^(none|https?://\S+)$"), AfterValidator(valid_address)]
Environment = Literal["workflow", "sft", "rl", "inspect"]
ImageName = Literal["sft", "rl", "eval", "retrieval", "analysis"]


class Base(Model):
    """Source of the base layer of all images."""

    bootstrap: Literal["docker", "debootstrap"] = Field(
        "docker", description="docker: an image from a registry; debootstrap: a Debian mirror"
    )
    image: str = Field("python:3.11-slim-bookworm", description="docker: name of the image, preferably with @sha256")
    mirror: str = Field("none", description="debootstrap: address of the mirror, preferably a dated snapshot")


class Images(Model):
    """Building of container images."""

    hardware: Literal["cuda", "cpu"] = Field("cuda", description="requirements to install: envs/cuda or envs/cpu")
    base: Base = Field(Base(), description="base layer of all images")
    same: dict[ImageName, ImageName] = Field(
        {}, description="images to replace by another one, e.g. {eval: rl} to save disk space"
    )
    options: list[str] = Field(["--fakeroot"], description="options of `apptainer build`")
    bind: list[str] = Field(
        [],
        description="bind mounts of the build, source[:target]; existing targets: "
        "/etc/ssl/certs, /opt/packages (a folder of wheels)",
    )
    environment: dict[str, str] = Field(
        {}, description="environment variables of the build: package index, certificates, proxy"
    )
    compression: list[str] = Field(["-comp", "zstd"], description="options of mksquashfs")
    tmp: str | None = Field(None, description="directory for builds, on a local disk; needs twice the image's size")
    cache: str | None = Field(None, description="uv's package cache, kept between builds")


class RetrievalServer(Model):
    """The retrieval server that the jobs of a run share, and the waiting for it."""

    runs_on: Literal["none", "slurm", "local"] = Field(
        "none",
        description="slurm: one job for the whole run, from the first search on; local: the same as a process of the "
        "machine where Snakemake runs; none: each job that searches starts its own server beside itself, on the CPU",
    )
    sbatch: list[str] = Field(
        [], description="slurm: options of sbatch, with the partition, GPU, CPUs, memory and time limit of the job"
    )
    gpus: str | None = Field(
        None,
        description="local: the server's GPUs, as in CUDA_VISIBLE_DEVICES; jobs leave them to it; null: all, only "
        "where no job has a GPU of this machine",
    )
    queue_s: float = Field(
        120.0, ge=0, description="jobs wait so many seconds until it gets its GPU; then each starts its own"
    )
    start_s: float = Field(
        1800.0, gt=0, description="longest start of any retrieval server in seconds; it reads the index first"
    )
    idle_s: float = Field(900.0, gt=0, description="it ends after so many seconds without a search")


class Tracking(Model):
    """Experiment trackers of the training runs. They get what the runs log; no result reads them."""

    trackers: Literal["auto"] | list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        "auto",
        description="auto: TensorBoard where the environment of the stage has it, else none; or a list of names, [] "
        "for none; one that is not installed there is left out with a message",
    )
    directory: str = Field("tracking", description="folder of their files, one folder in it for each tracker")
    project: str = Field("tool-star-aspo", description="project in Weights & Biases, experiment in MLflow")
    wandb_mode: Literal["offline", "online"] = Field(
        "offline", description="online needs WANDB_API_KEY in the environment; `wandb sync` sends offline files later"
    )
    mlflow_uri: str = Field(
        "none", description="address of an MLflow server; none: MLFLOW_TRACKING_URI, or without it the folder"
    )


class Site(Model):
    """A machine or cluster."""

    python: dict[Environment, str] = Field(
        {},
        description="Python interpreters of the environments workflow, sft and rl, without images, and of inspect",
    )
    retrieval_endpoint: Address = Field(
        "none", description="http://host:port of a running retrieval server; none: see `retrieval_server`"
    )
    retrieval_server: RetrievalServer = Field(
        RetrievalServer(), description="a retrieval server for all jobs of a run; unused with `retrieval_endpoint`"
    )
    helper_endpoint: Address = Field(
        "none", description="http://host:port/v1 of a running server with the helper models; none: there is none"
    )
    judge_endpoint: Address = Field(
        "none", description="http://host:port of a running judge server; none: each job starts its own"
    )
    containers: bool = Field(False, description="run every stage in its image")
    preflight: bool = Field(False, description="check the machine before every run")
    tracking: Tracking = Field(Tracking(), description="experiment trackers of the training runs")
    tokens: list[str] = Field([], description="names of environment variables with secrets that a run needs")
    images: Images = Field(Images(), description="building of container images")


def load_site(
    section: Mapping[str, Any] | None, files: list[str], stated: Mapping[str, Any] = MappingProxyType({})
) -> Site:
    """Validate a profile's `site` section.

    Args:
        section: the section; None if no file has it, which is valid only for `config.yaml` without a profile.
        files: the YAML files of the configuration, `config.yaml` first.
        stated: typed values of `--config`, which override the files.

    Raises:
        ConfigError: all faults, each with file and key.
    """
    if section is None and len(files) > 1:
        raise ConfigError(
            "no `site:` section",
            where=", ".join(files),
            why="--configfile replaces the files of the profile",
            remedy=f"--configfile profiles/slurm/site.yaml {' '.join(files[1:])}   # or the list of another profile",
        )
    try:
        return Site.model_validate({} if section is None else section)
    except ValidationError as error:
        raise ConfigError(render_errors(error, Site, section, files, stated, "site")) from None
