"""A VRT names files: only local ones are followed, and no server is ever asked."""

import socket
import threading

import numpy as np
import pytest
import rasterio

from gigatile.errors import ImageError
from gigatile.images.open import open_source
from gigatile.images.vrt import referred


def dataset(inner: str) -> str:
    return f'<VRTDataset rasterXSize="8" rasterYSize="8">{inner}</VRTDataset>'


def band(source: str) -> str:
    return dataset(f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>')


@pytest.fixture
def server():
    """A port of this machine, and how often somebody came."""
    visits = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            visits.append(1)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listening.getsockname()[1]}", visits
    listening.close()


REMOTE = (
    "<SourceFilename>http://HOST/a.tif</SourceFilename>",
    '<SourceFilename relativeToVRT="1">/vsicurl/http://HOST/a.tif</SourceFilename>',
    "<sourcefilename>http://HOST/a.tif</sourcefilename>",
    '<X SourceFilename="http://HOST/a.tif"/>',
    "<SourceFilename>/vsizip//vsicurl/http://HOST/a.zip/a.tif</SourceFilename>",
    "<SourceFilename>vrt://http://HOST/a.tif</SourceFilename>",
    "<SourceFilename>WMS:HOST/wms?</SourceFilename>",
    "<SourceFilename>&lt;GDAL_WMS&gt;&lt;ServerUrl&gt;HOST&lt;/ServerUrl&gt;&lt;/GDAL_WMS&gt;</SourceFilename>",
    '<SourceFilename>NETCDF:"/vsicurl/http://HOST/a.nc":x</SourceFilename>',
)


@pytest.mark.parametrize("source", REMOTE)
def test_remote_references_are_refused_and_nobody_is_asked(tmp_path, server, source):
    host, visits = server
    path = tmp_path / "a.vrt"
    path.write_text(band(source.replace("HOST", host)))
    with pytest.raises(ImageError, match="expected references to local files"):
        open_source(path)
    assert not visits


def test_a_file_that_refers_to_a_server_is_refused_as_a_source_too(tmp_path, server):
    host, visits = server
    (tmp_path / "b.xml").write_text(f"<GDAL_WMS><Service name='TMS'><ServerUrl>http://{host}</ServerUrl></Service>")
    path = tmp_path / "a.vrt"
    path.write_text(band('<SourceFilename relativeToVRT="1">b.xml</SourceFilename>'))
    with pytest.raises(ImageError, match="a VRT in XML"):
        open_source(path)
    inner = tmp_path / "c.vrt"
    inner.write_text(band(f"<SourceFilename>http://{host}/a.tif</SourceFilename>"))
    path.write_text(band('<SourceFilename relativeToVRT="1">c.vrt</SourceFilename>'))
    with pytest.raises(ImageError, match=r"c\.vrt: expected references to local files"):
        open_source(path)
    assert not visits


def test_a_crs_that_is_a_url_is_refused(tmp_path, server):
    host, visits = server
    path = tmp_path / "a.vrt"
    path.write_text(dataset(f"<SRS>http://{host}/crs</SRS>"))
    with pytest.raises(ImageError, match="expected references to local files"):
        open_source(path)
    assert not visits


def test_loops_of_vrts_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.vrt").write_text(band(f'<SourceFilename relativeToVRT="1">{other}.vrt</SourceFilename>'))
    with pytest.raises(ImageError, match="a loop or more"):
        open_source(tmp_path / "a.vrt")


def test_a_doctype_is_refused(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text('<VRTDataset rasterXSize="8" rasterYSize="8"><!DOCTYPE a [<!ENTITY b "c">]></VRTDataset>')
    with pytest.raises(ImageError, match="DOCTYPE"):
        open_source(path)


def test_a_missing_source_is_named(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text(band('<SourceFilename relativeToVRT="1">gone.tif</SourceFilename>'))
    with pytest.raises(ImageError, match=r"gone\.tif.*no such file"):
        open_source(path)


def test_local_files_are_followed_through_vrts_and_urls_in_texts_are_texts(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8", crs="EPSG:32631",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as out:  # fmt: skip
        out.write(np.full((1, 8, 8), 7, np.uint8))
    (tmp_path / "b.vrt").write_text(band('<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'))
    path = tmp_path / "c.vrt"
    inner = '<Metadata><MDI key="licence">https://example.org</MDI></Metadata>'
    path.write_text(
        band('<SourceFilename relativeToVRT="1">b.vrt</SourceFilename>').replace("<VRTR", f"{inner}<VRTR", 1)
    )
    assert [name.rpartition("/")[2] for name in referred(str(path))] == ["c.vrt", "b.vrt", "a.tif"]
    assert open_source(path).decode(0, 0, 0).tolist() == np.full((1, 8, 8), 7).tolist()
