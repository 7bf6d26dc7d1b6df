"""ml_backend.media: signed pictures, drawn once, found by nobody who was not given the address."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from backend_helpers import assert_error, make_image, make_query, make_settings, make_store
from flask.testing import FlaskClient
from http_stub import Reply, Stub, replies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_backend import media
from ml_backend.app import Services, create_app
from ml_backend.errors import BackendError, NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.settings import Settings
from ml_backend.store import Image, Store
from training.images import content_id
from training.regions import RegionMap


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "home", PIXBAL_PUBLIC_URL="http://pixbal.test")


def add_image(store: Store, config: Settings, seed: int = 0) -> Image:
    """A stored image of 64 x 48 px with twelve square regions of 16 px."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    image_id = content_id(buffer.getvalue())
    config.images_dir.mkdir(parents=True, exist_ok=True)
    path = config.images_dir / f"{image_id}.png"
    path.write_bytes(buffer.getvalue())
    rows, columns = np.indices((48, 64)) // 16
    region_map = RegionMap((rows * 4 + columns).astype(np.int32), 12, "grid", {"side_px": 16})
    regions = config.home / f"{image_id}.npz"
    region_map.save(regions)
    image = make_image(
        image_id=image_id, path=str(path), regions_path=str(regions), regions_hash=region_map.hash
    )
    store.add_images([image])
    return image


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def image(store: Store, config: Settings) -> Image:
    return add_image(store, config)


@pytest.fixture
def client(config: Settings, store: Store) -> FlaskClient:
    return create_app(Services(config, store)).test_client()


def path_of(config: Settings, image: Image, index: int = 3, kind: str = "crop") -> str:
    url = media.media_url(config, 4, image.image_id, index, kind, image.regions_hash)
    return url.removeprefix(config.public_url)


@pytest.mark.parametrize("kind", ["crop", "locator"])
def test_picture_is_served_without_a_password_to_any_page(
    client: FlaskClient, config: Settings, image: Image, kind: str
) -> None:
    response = client.get(path_of(config, image, kind=kind))
    assert response.status_code == 200
    assert response.mimetype == "image/jpeg"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert PIL.Image.open(io.BytesIO(response.data)).format == "JPEG"


def test_pictures_of_different_regions_differ(
    client: FlaskClient, config: Settings, image: Image
) -> None:
    pictures = {
        client.get(path_of(config, image, index, kind)).data
        for index, kind in itertools.product(range(3), ("crop", "locator"))
    }
    assert len(pictures) == 6


def test_second_time_comes_from_the_disk(
    client: FlaskClient, config: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get(path_of(config, image)).data
    kept = [p for p in config.media_dir.rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in kept] == [first]

    def refuse(*_: object) -> bytes:
        raise AssertionError("drawn twice")

    monkeypatch.setattr(media, "draw", refuse)
    assert client.get(path_of(config, image)).data == first


def test_cache_may_be_deleted(client: FlaskClient, config: Settings, image: Image) -> None:
    first = client.get(path_of(config, image)).data
    shutil.rmtree(config.media_dir)
    assert client.get(path_of(config, image)).data == first


def test_full_disk_does_not_stop_labelling(
    client: FlaskClient, config: Settings, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(media, "write_atomically", full)
    assert client.get(path_of(config, image)).status_code == 200


def changed(path: str, position: int, value: str) -> str:
    parts = path.split("/")
    parts[position] = value
    return "/".join(parts)


# "", media, signature, project, image, index, kind.jpg
@pytest.mark.guarantee(17)
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (2, "0" * 32),
        (2, ""),
        (2, "0" * 31),
        (2, "é" * 32),
        (3, "5"),
        (3, "9" * 30),
        (3, "-4"),
        (4, "f" * 24),
        (4, "..%2f..%2fsecrets"),
        (4, "a" * 65),
        (4, "a%00b"),
        (5, "4"),
        (5, "11111111111111111111111"),
        (5, "1e1"),
        (6, "locator.jpg"),
        (6, "crop.png"),
        (6, "..%2fcrop.jpg"),
    ],
)
def test_changed_address_is_404(
    client: FlaskClient, config: Settings, image: Image, position: int, value: str
) -> None:
    assert_error(client.get(changed(path_of(config, image), position, value)), 404)


def test_address_of_an_older_region_map_is_404(
    client: FlaskClient, config: Settings, store: Store, image: Image
) -> None:
    path = path_of(config, image)
    store.update_image(4, image.image_id, regions_hash="0" * 24)
    assert_error(client.get(path), 404)


@pytest.mark.parametrize("index", [-1, 12, 10**6])
def test_signed_address_of_no_region_is_404(
    client: FlaskClient, config: Settings, image: Image, index: int
) -> None:
    assert_error(client.get(path_of(config, image, index)), 404)


def test_signed_address_of_no_known_kind_is_404(
    client: FlaskClient, config: Settings, image: Image
) -> None:
    assert_error(client.get(path_of(config, image, kind="mask")), 404)


@pytest.mark.guarantee(17)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(image_id=st.text(max_size=80), signature=st.text(max_size=40), index=st.integers(0, 2**70))
def test_no_text_reads_a_file(
    config: Settings, store: Store, image: Image, image_id: str, signature: str, index: int
) -> None:
    with pytest.raises(NotFound):
        media.picture(config, store, signature, 4, image_id, index, "crop")


def test_damaged_files_are_named_not_shown(
    client: FlaskClient, config: Settings, image: Image
) -> None:
    Path(image.path).write_bytes(b"gone")
    error = assert_error(client.get(path_of(config, image)), 500)
    assert "Restore PIXBAL_HOME" in error["hint"]


def test_exchanged_region_map_is_refused(config: Settings, store: Store, image: Image) -> None:
    other = RegionMap(np.zeros((48, 64), np.int32), 1, "grid", {})
    other.save(Path(image.regions_path))
    with pytest.raises(BackendError, match="not the one its questions were made of"):
        media.draw(image, 0, "crop", config.max_pixels)


def test_two_addresses_of_a_question(config: Settings, image: Image) -> None:
    query = make_query(
        region_index=3, image_id=image.image_id, regions_hash=image.regions_hash, task_id=9
    )
    crop, locator = media.picture_urls(config, query)
    assert crop == config.public_url + path_of(config, image)
    assert locator == config.public_url + path_of(config, image, kind="locator")


def test_local_files(tmp_path: Path, store: Store, config: Settings, image: Image) -> None:
    root = tmp_path / "root"
    local = replace(config, media="local-files", local_files_root=root)
    query = make_query(region_index=3, image_id=image.image_id, regions_hash=image.regions_hash)
    urls = media.picture_urls(local, query)
    assert media.write_local_pictures(local, store, [query]) == 2
    assert media.write_local_pictures(local, store, [query]) == 0
    for url in urls:
        prefix, _, path = url.partition("?d=")
        assert prefix == "/data/local-files/"
        assert (root / path).read_bytes().startswith(b"\xff\xd8")
    with pytest.raises(BackendError, match="PIXBAL_LOCAL_FILES_ROOT"):
        media.write_local_pictures(config, store, [query])
    with pytest.raises(NotFound):
        media.write_local_pictures(local, store, [make_query(image_id="f" * 24)])


def test_local_files_below_a_path_prefix_of_label_studio(
    tmp_path: Path, config: Settings, image: Image
) -> None:
    """LABEL_STUDIO_HOST=http://host/label-studio. Seen failing as it was: no prefix, 404."""
    local = replace(
        config,
        media="local-files",
        local_files_root=tmp_path / "root",
        label_studio_public_url="http://host/label-studio",
    )
    query = make_query(region_index=3, image_id=image.image_id, regions_hash=image.regions_hash)
    for url in media.picture_urls(local, query):
        assert url.startswith("/label-studio/data/local-files/?d=pixbal/")
        with Stub(replies(Reply(body=b"jpeg"))) as server:  # as the doctor looks at it
            ls = LabelStudio(server.url, "0" * 40, public_url=local.label_studio_public_url)
            assert ls.fetch(url) == b"jpeg"
            assert server.requests[0].path == url.removeprefix("/label-studio")
