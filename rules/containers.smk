# Container images. The inputs of a rule include its image's identity, a small file with the digests of the image's
# sources. A rebuild from the same sources writes the same identity, so it reruns nothing.

import shutil

import tir.workflow.images
from tir.workflow.engine import is_plan


localrules:
    base_image,
    image,


IMAGE_SITE = params(images=SITE.images)
HAS_TOOL = bool(shutil.which("apptainer") or shutil.which("singularity"))


def same(name):
    """The image that this site uses as `name` (`site.images.same`)."""
    return SITE.images.same.get(name, name)


def image(name):
    """Identity of the image, an input of every rule that runs in it; empty at a site without images."""
    return [f"images/{same(name)}.json"] if SITE.containers else []


def container_of(name):
    """Path of the image. None in a plan on a machine without a container tool, because Snakemake would reject it."""
    omitted = is_plan(workflow) and not HAS_TOOL
    return f"images/{same(name)}.sif" if SITE.containers and not omitted else None


rule base_image:
    """Base layer of all images."""
    input:
        tir.workflow.images.sources("base", SITE.images.hardware),
    output:
        "images/base.sif",
        "images/base.build.json",
        identity="images/base.json",
    log:
        "logs/images/base.log",
    params:
        config=params(base=SITE.images.base, hardware=SITE.images.hardware),
    shell:
        "{HOST} -m scripts.build_image --name base --output {output[0]} --params {IMAGE_SITE:q} 2>&1 | tee {log}"


rule image:
    """One image: the base layer and the packages of its lock."""
    input:
        lambda w: tir.workflow.images.sources(w.image, SITE.images.hardware),
        base="images/base.json",
    output:
        "images/{image}.sif",
        "images/{image}.build.json",
        identity="images/{image}.json",
    log:
        "logs/images/{image}.log",
    benchmark:
        "benchmarks/images/{image}.tsv"
    wildcard_constraints:
        image="|".join(tir.workflow.images.RECIPES),
    shell:
        "{HOST} -m scripts.build_image --name {wildcards.image} --output {output[0]} --params {IMAGE_SITE:q} 2>&1 | tee {log}"
