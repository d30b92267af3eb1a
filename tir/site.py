"""What a place is like: interpreters, container images, a standing retrieval server. Comes from a profile.

Nothing here is part of the experiment, so nothing here causes a stage to run again; only the layer below the images is
named among an image's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from tir.schema import Model
from tir.config.errors import render_errors
from tir.errors import ConfigError


Address = Annotated[str, Field(pattern=r"^(none|https?://\S+)$")]
Environment = Literal["workflow", "sft", "rl"]
ImageName = Literal["sft", "rl", "eval", "retrieval", "analysis"]


class Base(Model):
    """Where the layer below every image comes from."""

    bootstrap: Literal["docker", "debootstrap"] = Field("docker", description="a registry image, or a Debian mirror")
    image: str = Field("python:3.11-slim-bookworm", description="docker: name, best with its @sha256 digest")
    mirror: str = Field("none", description="debootstrap: address of a mirror, best a dated snapshot")


class Images(Model):
    """How images are built here."""

    hardware: Literal["cuda", "cpu"] = Field("cuda", description="which locks go in: envs/cuda or envs/cpu")
    base: Base = Base()
    same: dict[ImageName, ImageName] = Field({}, description="images that are another one here, e.g. {eval: rl} to save disk")
    options: list[str] = Field(["--fakeroot"], description="options of `apptainer build`")
    bind: list[str] = Field([], description="seen while building, source[:target]; targets that exist: "
                                           "/etc/ssl/certs, /opt/packages (a folder of wheels)")
    environment: dict[str, str] = Field({}, description="set while building: package index, certificates, proxy")
    compression: list[str] = Field(["-comp", "zstd"], description="options of mksquashfs")
    tmp: str | None = Field(None, description="room for a build: twice the image's size, on a local disk")
    cache: str | None = Field(None, description="uv's package cache, kept between builds")


class Site(Model):
    """A machine or cluster."""

    python: dict[Environment, str] = Field({}, description="interpreter of workflow, sft and rl where no images are used")
    retrieval_endpoint: Address = Field("none", description="http://host:port of a standing retrieval server; none: each job starts its own")
    helper_endpoint: Address = Field("none", description="http://host:port/v1 of a standing server of the helper model, or none")
    judge_endpoint: Address = Field("none", description="http://host:port of a standing server of the judge, or none")
    containers: bool = Field(False, description="run every stage in its image")
    preflight: bool = Field(False, description="check the place before every run")
    tokens: list[str] = Field([], description="secrets a run needs, by name of environment variable")
    images: Images = Images()


def load_site(section: Mapping[str, Any] | None, files: list[str], stated: Mapping[str, Any] = MappingProxyType({})) -> Site:
    """Validate a profile's `site` section.

    Args:
        section: None if no file has one, which is as it should be only for `config.yaml` alone.
        files: the YAML files of the configuration, `config.yaml` first.
        stated: what `--config` laid over them, typed.

    Raises `ConfigError`, which names file and key of each fault.
    """
    if section is None and len(files) > 1:
        raise ConfigError("no `site:` section", where=", ".join(files), why="--configfile takes the place of the profile's own files",
                          remedy=f"--configfile profiles/slurm/site.yaml {' '.join(files[1:])}   # for another profile its list in config.yaml")
    try:
        return Site.model_validate(section or {})
    except ValidationError as error:
        raise ConfigError(render_errors(error, Site, section, files, stated, "site")) from None
