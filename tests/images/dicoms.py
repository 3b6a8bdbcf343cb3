"""Small DICOM whole-slide images made here: native pixels, TILED_FULL, with the attributes that readers ask for."""

from math import ceil
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE = 16
SPACING_MM = 0.00025


def tiles_of(pixels: np.ndarray) -> np.ndarray:
    """Frames of shape (n, TILE, TILE, samples) in row-major order; what hangs over is 7."""
    height, width = pixels.shape[:2]
    rows, cols = ceil(height / TILE), ceil(width / TILE)
    padded = np.full((rows * TILE, cols * TILE, pixels.shape[2]), 7, pixels.dtype)
    padded[:height, :width] = pixels
    return padded.reshape(rows, TILE, cols, TILE, -1).swapaxes(1, 2).reshape(-1, TILE, TILE, pixels.shape[2])


def header(shape: tuple[int, int], samples: int, paths: list[str], series: str, factor: int = 1) -> Dataset:
    """A data set without frames, of one level whose pixels are `factor` times as large."""
    spacing = SPACING_MM * factor
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = WHOLE_SLIDE, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.4"
    ds.Modality, ds.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.DimensionOrganizationType = "TILED_FULL"
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = shape
    ds.ImagedVolumeHeight, ds.ImagedVolumeWidth = (side * spacing for side in shape)
    ds.ImagedVolumeDepth = 0.001
    ds.TotalPixelMatrixFocalPlanes, ds.NumberOfOpticalPaths = 1, len(paths)
    ds.ExtendedDepthOfField, ds.FocusMethod, ds.SpecimenLabelInImage = "NO", "AUTO", "NO"
    ds.SliceThickness, ds.BurnedInAnnotation, ds.LossyImageCompression = 0.001, "NO", "00"
    ds.VolumetricProperties = "VOLUME"
    ds.Rows = ds.Columns = TILE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    measures, shared, origin = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing, spacing], 0.001
    shared.PixelMeasuresSequence = Sequence([measures])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    ds.TotalPixelMatrixOriginSequence = Sequence([origin])
    ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    optical = []
    for index, name in enumerate(paths):
        path = Dataset()
        path.OpticalPathIdentifier, path.OpticalPathDescription = str(index), name
        path.ObjectiveLensPower = "40"
        optical.append(path)
    ds.OpticalPathSequence = Sequence(optical)
    return ds


def write(path: Path, ds: Dataset, frames: np.ndarray) -> None:
    """Write a data set with frames of shape (n, TILE, TILE, samples)."""
    ds.NumberOfFrames, ds.PixelData = len(frames), frames.tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = WHOLE_SLIDE, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


def write_slide(folder: Path, pixels: np.ndarray, series: str = "1.2.5", kind: str = "VOLUME", factor: int = 1) -> Path:
    """One level in one file, of pixels (y, x, 3)."""
    folder.mkdir(exist_ok=True)
    ds = header(pixels.shape[:2], pixels.shape[2], ["brightfield"], series, factor)
    ds.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    path = folder / f"{series}-{kind}-{pixels.shape[1]}.dcm"
    write(path, ds, tiles_of(pixels))
    return path


def write_jpegs(folder: Path, shape: tuple[int, int], frames: list[bytes]) -> None:
    """One level of baseline JPEGs that the header calls RGB."""
    folder.mkdir(exist_ok=True)
    ds = header(shape, 3, ["brightfield"], "1.2.5")
    ds.NumberOfFrames, ds.PixelData = len(frames), encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = WHOLE_SLIDE, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.save_as(folder / "a.dcm", enforce_file_format=True)


def write_concatenation(folder: Path, pixels: np.ndarray, first: int) -> None:
    """One level in two files, the first of which has `first` frames."""
    folder.mkdir(exist_ok=True)
    frames = tiles_of(pixels)
    for number, part in enumerate((frames[:first], frames[first:]), 1):
        ds = header(pixels.shape[:2], pixels.shape[2], ["brightfield"], "1.2.5")
        ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = "1.2.6", "1.2.7"
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number, 2
        ds.ConcatenationFrameOffsetNumber = 0 if number == 1 else first
        write(folder / f"{3 - number}.dcm", ds, part)


def write_paths(folder: Path, planes: dict[str, np.ndarray]) -> None:
    """One level whose grey optical paths, of pixels (y, x), have these descriptions."""
    folder.mkdir(exist_ok=True)
    frames = [tiles_of(plane[..., np.newaxis]) for plane in planes.values()]
    shape = next(iter(planes.values())).shape
    write(folder / "a.dcm", header(shape, 1, list(planes), "1.2.5"), np.concatenate(frames))
