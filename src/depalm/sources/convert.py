"""What is published -> what is read, once, by the converters of CONVERTERS.

No code that a file may hold is run: PyTorch's pickles are read as tensors and plain values only.
"""

from pathlib import Path

from depalm.files import atomic_directory, read_checked, write_checked
from depalm.progress import logger
from depalm.sources.conversion import ConvertError
from depalm.sources.model_folder import ModelFolderError, check_model_folder
from depalm.sources.registry import CONVERTERS, WITHOUT_CODE


def convert(download: Path, output: Path, converter: str) -> None:
    """Convert what is in `download` by CONVERTERS[`converter`] into the directory `output`.

    `output` appears whole or not at all, always with a source.json: that of the download (see
    depalm.sources.fetch.fetch) and the converter's name. The same download gives the same bytes.
    Raises ConvertError, of a dataset AnnotationError, if the download is not what the converter
    reads, or asks for code of its own, which is not run (unless the converter leaves it out).
    """
    if converter not in CONVERTERS:
        raise ConvertError(f"unknown converter {converter!r}; there are: {sorted(CONVERTERS)}")
    if not (download / "source.json").is_file():
        raise ConvertError(
            f"{download} has no source.json: it was not fetched whole; fetch it again"
        )
    if converter not in WITHOUT_CODE:
        _check(download)
    logger.info("convert %s by %s", download, converter)
    source = {**read_checked(download / "source.json"), "converter": converter}
    with atomic_directory(output) as directory:
        CONVERTERS[converter](download, directory)
        _check(directory)
        write_checked(directory / "source.json", source)


def _check(folder: Path) -> None:
    try:
        check_model_folder(folder)
    except ModelFolderError as error:
        raise ConvertError(str(error)) from error
