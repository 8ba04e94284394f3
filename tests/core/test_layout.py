from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.exceptions import InvalidRequest

SHA = "ab" * 32
FOLDER = Owner("shop", "manual__2026-01-01T00:00:00+00:00", "hero").path()


def keys(s3_key: object, *, count: int = 1, s3_bucket: object = "b", folder: str = FOLDER) -> list[str]:
    target = Target.parse(s3_key, s3_bucket, default_folder=folder)
    return [target.key(index=index, ext="png", sha256=SHA, several=count > 1) for index in range(count)]


def refusal(s3_key: object, s3_bucket: object = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        Target.parse(s3_key, s3_bucket, default_folder=FOLDER)
    assert type(caught.value) is InvalidRequest
    return str(caught.value)


@pytest.mark.parametrize(
    ("s3_key", "one", "first_of_several"),
    [
        ("hero.png", "hero.png", "hero-0.png"),
        ("hero", "hero", "hero-0"),
        ("a.b/hero", "a.b/hero", "a.b/hero-0"),
        (".hidden", ".hidden", ".hidden-0"),
        ("a/.hidden.png", "a/.hidden.png", "a/.hidden-0.png"),
        ("a/", "a/0.png", "a/0.png"),
        ("/", "/0.png", "/0.png"),
        ("hero.{ext}", "hero.png", "hero-0.png"),
        ("hero-{index}.png", "hero-0.png", "hero-0.png"),
        ("{index}/hero.{ext}", "0/hero.png", "0/hero.png"),
        ("{sha256}.{ext}", f"{SHA}.png", f"{SHA}.png"),
        ("{sha256}/", f"{SHA}/0.png", f"{SHA}/0.png"),
        ("a b/é.png", "a b/é.png", "a b/é-0.png"),
        ("{index}-{index}", "0-0", "0-0"),
        ("s3://b/hero.png", "hero.png", "hero-0.png"),
        ("S3://b/a/", "a/0.png", "a/0.png"),
        ("s3://b/", "0.png", "0.png"),
        ("s3://b", "0.png", "0.png"),
        ("s3://b//hero.png", "/hero.png", "/hero-0.png"),
        (
            None,
            "seedream/shop/manual__2026-01-01T00_00_00_00_00/hero/0.png",
            "seedream/shop/manual__2026-01-01T00_00_00_00_00/hero/0.png",
        ),
    ],
)
def test_a_key_is_what_the_documentation_says(s3_key: str | None, one: str, first_of_several: str) -> None:
    assert keys(s3_key) == [one]
    several = keys(s3_key, count=3)
    assert several[0] == first_of_several
    assert len(set(several)) == (1 if s3_key == "{sha256}.{ext}" else 3)


@given(
    s3_key=st.text(alphabet="a./-{}", min_size=1, max_size=8).filter(
        lambda key: not {"{", "}"} & set(key) and not {".", ".."} & set(key.split("/"))
    )
)
def test_several_images_never_share_a_key(s3_key: str) -> None:
    assert len(set(keys(s3_key, count=12))) == 12


@pytest.mark.parametrize(
    ("s3_key", "s3_bucket", "bucket"),
    [
        ("hero", None, None),
        ("hero", "b", "b"),
        ("hero", " b ", "b"),
        (None, "b", "b"),
        (None, None, None),
        ("s3://b/hero", None, "b"),
        ("s3://b/hero", "b", "b"),
    ],
)
def test_the_bucket_is_the_one_that_was_named(s3_key: Any, s3_bucket: Any, bucket: str | None) -> None:
    assert Target.parse(s3_key, s3_bucket, default_folder=FOLDER).bucket == bucket


def test_two_different_buckets_are_refused_with_both_names() -> None:
    message = refusal("s3://one/hero.png", "two")
    assert message == "Leave one out: s3_key names bucket 'one', and s3_bucket names 'two'"


@pytest.mark.parametrize("s3_bucket", ["", " ", "s3://b", "b/key", 7, True, ["b"]])
def test_what_is_no_bucket_name_is_refused(s3_bucket: object) -> None:
    """A template that renders to nothing must not become the connection's default bucket."""
    assert refusal("hero", s3_bucket) == (
        f"Use a bucket's name alone, without s3:// and without a key: s3_bucket is {s3_bucket!r}"
    )


@pytest.mark.parametrize(
    "s3_key", ["", " ", 7, True, ["k"], b"k", "lone-\ud83d", "nul-\0", "a\nb", "del-\x7f"]
)
def test_what_is_no_key_is_refused(s3_key: object) -> None:
    assert refusal(s3_key) == (
        f"Use a key, a prefix that ends in '/', s3://bucket/key, or None: s3_key is {s3_key!r}"
    )


@pytest.mark.parametrize("s3_key", [".", "..", "a/../b", "../a", "a/.", "./", "s3://b/../a/", "a/./{id}.png"])
def test_a_part_that_clients_and_proxies_resolve_is_refused_before_it_is_paid_for(s3_key: str) -> None:
    assert refusal(s3_key) == f"Write s3_key out: it has a part that is '.' or '..' (s3_key is {s3_key!r})"


@pytest.mark.parametrize("s3_key", ["https://b/hero.png", "s3:///hero.png", "://hero", "gs://b/k"])
def test_what_is_no_s3_url_is_refused(s3_key: str) -> None:
    assert refusal(s3_key) == f"Use s3://bucket/key: s3_key is no S3 URL ({s3_key!r})"


@pytest.mark.parametrize("name", ["n", "", "Index", "index:03d", "index!r", " index ", "0"])
def test_a_placeholder_that_nobody_fills_in_is_refused_with_the_known_ones(name: str) -> None:
    s3_key = f"a-{{{name}}}.png"
    assert refusal(s3_key) == (
        f"Use {{ext}}, {{index}}, {{sha256}} in s3_key: nobody fills in {{{name}}} (s3_key is {s3_key!r})"
    )


@pytest.mark.parametrize("length", [1018, 1017])
def test_a_key_may_be_as_long_as_s3_allows_with_the_longest_index_added(length: int) -> None:
    """S3 counts 1,024 bytes of UTF-8; "-9999" takes five."""
    if length == 1018:
        assert "Shorten s3_key: it makes keys of more than 1024 bytes" in refusal("é" * (length // 2) + "aa")
    else:
        assert Target.parse("é" * (length // 2) + "aaa", None).template.endswith("aaa")


def test_a_mapped_task_has_a_folder_for_each_index() -> None:
    mapped = [Owner("shop", "run", "hero", index).path() for index in (-1, 0, 1)]
    assert mapped == ["shop/run/hero", "shop/run/hero/0", "shop/run/hero/1"]


@pytest.mark.parametrize(
    ("run_id", "safe"),
    [
        ("manual__2026-01-01T00:00:00+00:00", "manual__2026-01-01T00_00_00_00_00"),
        ("scheduled__2026-01-01T00:00:00.123456-05:00", "scheduled__2026-01-01T00_00_00.123456-05_00"),
        ("manual__2026-01-01T00:00:00+00:00_x1Yz", "manual__2026-01-01T00_00_00_00_00_x1Yz"),
        ("nightly-7", "nightly-7"),
        ("v1.2", "v1.2"),
    ],
)
def test_airflows_own_run_ids_stay_readable(run_id: str, safe: str) -> None:
    assert Owner("shop", run_id, "hero").path() == f"shop/{safe}/hero"


def test_run_ids_that_look_alike_when_made_safe_stay_apart() -> None:
    run_ids = [
        "a_b",
        "a:b",
        "a+b",
        "a b",
        "a/b",
        "a~b",
        "a\\b",
        "aéb",
        "aèb",
        "..",
        ".",
        "...",
        "_",
        "a__b",
        "a:+b",
    ]
    paths = [Owner("shop", run_id, "hero").path() for run_id in run_ids]
    assert len(set(paths)) == len(run_ids)
    assert all(path.count("/") == 2 for path in paths)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.integers(-1, 9))
def test_a_default_key_is_safe_for_s3_and_for_file_systems(dag: str, run: str, task: str, index: int) -> None:
    names = Owner(dag, run, task, index).path().split("/")
    assert len(names) == (4 if index >= 0 else 3)
    for name in names:
        assert name.isascii()
        assert name.strip(".")
        assert not set(name) & set('/\\:*?"<>|+ \n\0')


def test_the_longest_names_that_airflow_allows_make_a_default_key_that_s3_allows() -> None:
    owner = Owner("é" * 250, "é" * 250, "é" * 250, 9_999)
    target = Target.parse(None, None, default_folder=owner.path())
    assert len(target.key(index=9_999, ext="webp", sha256=SHA, several=True)) <= 1024


def test_while_a_dag_is_parsed_there_is_no_run_to_name() -> None:
    assert Target.parse(None, None) == Target(None, "seedream//{index}.{ext}")


def test_values_that_are_filled_in_are_not_read_as_placeholders() -> None:
    assert Target(None, "{ext}").key(index=0, ext="{index}", sha256=SHA, several=False) == "{index}"


@pytest.mark.parametrize(
    ("s3_key", "folder"),
    [
        ("hero.png", ""),
        ("a/b/hero.png", "a/b/"),
        ("a/b/", "a/b/"),
        ("a/{sha256}/{index}.png", "a/"),
        ("a/b-{index}/c.png", "a/"),
        ("{index}/c.png", ""),
        ("s3://b/a/hero", "a/"),
    ],
)
def test_the_folder_is_what_the_keys_of_all_images_begin_with(s3_key: str, folder: str) -> None:
    assert Target.parse(s3_key, None).folder == folder
    assert all(key.startswith(folder) for key in keys(s3_key, count=3))
