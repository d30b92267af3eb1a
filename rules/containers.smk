# Images. A stage names its image in `container:`, and among its inputs the image's identity: a small file that says what
# the image is made of. A rebuild from the same sources writes the same bytes, so it reruns nothing.

import shutil

import tir.images


localrules:
    base_image,
    image,


IMAGE_SITE = params(SITE.images)
HAS_TOOL = bool(shutil.which("apptainer") or shutil.which("singularity"))


def same(name):
    """The image that serves as `name` on this site."""
    return SITE.images.same.get(name, name)


def image(name):
    return [f"images/{same(name)}.json"] if SITE.containers else []


def container_of(name):
    """The image a stage runs in. A plan can be made where no container tool is; a run is refused there (`onstart`)."""
    only_plan = workflow.is_main_process and not HAS_TOOL
    return f"images/{same(name)}.sif" if SITE.containers and not only_plan else None


rule base_image:
    """The layer below every image."""
    input:
        tir.images.sources("base", SITE.images.hardware),
    output:
        "images/base.sif",
        "images/base.build.json",
        identity="images/base.json",
    log:
        "logs/images/base.log",
    params:
        config=params(SITE.images.base, hardware=SITE.images.hardware),
    shell:
        "{HOST} -m scripts.build_image --name base --output {output[0]} --params {IMAGE_SITE:q} 2>&1 | tee {log}"


rule image:
    """One image: the base and the requirements of its lock."""
    input:
        lambda w: tir.images.sources(w.image, SITE.images.hardware),
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
        image="|".join(tir.images.RECIPES),
    shell:
        "{HOST} -m scripts.build_image --name {wildcards.image} --output {output[0]} --params {IMAGE_SITE:q} 2>&1 | tee {log}"
