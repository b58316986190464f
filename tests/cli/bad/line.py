"""The one line that a failure is told in."""


def only_line(code, out, err, folder):
    """The error line of a run that failed with nothing else said and nothing left in `folder`."""
    assert out == "" and "Traceback" not in err
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert not folder.exists() or not list(folder.rglob("*"))
    return code, line.removeprefix("error: ").replace(f"{folder.parent}/", "")
