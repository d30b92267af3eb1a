# Images. A stage names its image in `container:` and as an input; without containers both are empty.


def image(name):
    return [f"images/{name}.sif"] if SITE.get("containers") else []


def container_of(name):
    return f"images/{name}.sif" if SITE.get("containers") else None
