"""Numbers of things in lines for people."""


def counted(count: int, noun: str) -> str:
    """ "1 class", "20 classes", "1,000 pictures"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
