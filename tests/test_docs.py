"""The documentation: its examples run, its links and anchors exist, and code cites it rightly.

A fenced block with a title is an example. If the title is a module of src/, the block is added to
that module, as a reader would; any other title is a file with that content.
"""

import csv
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import yaml
from markdown import Markdown
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, NanoChatConfig, NanoChatForCausalLM

from depalm.adapters.registry import INJECTORS, RESAMPLERS
from depalm.backbones.load import load_backbone
from depalm.backbones.registry import LOADERS
from depalm.config.load import load_config
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.datasets.manifest import build_manifest
from depalm.datasets.readers import READERS
from depalm.errors import AnnotationError
from depalm.evaluation.metrics import METRICS, score
from depalm.llms.base import LLMError
from depalm.llms.injection import Injection, hidden_states
from depalm.llms.load import load_llm
from depalm.llms.registry import FAMILIES
from depalm.media.decoders import load_decoder
from tests.smoke.build import write_llm
from tests.support.project import FENCE, ROOT, load_script, project_files
from tests.support.specs import backbone_spec, llm_spec, rows_spec
from tests.support.tiny import new_adapter, tiny_llm
from tests.support.vit import tiny_vit

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REGISTRIES = (LOADERS, READERS, FAMILIES, METRICS, RESAMPLERS, INJECTORS)
EXAMPLE = re.compile(
    r'^```(?P<language>\w+) title="(?P<title>[^"]+)"\n(?P<content>.*?)^```$', re.M | re.S
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CITED = re.compile(r"docs/(?P<page>[\w/-]+\.md)(?:#(?P<anchor>[\w-]+))?")


def examples(page: str) -> dict[str, str]:
    """The examples of a page: title -> content, of several with one title the lines of all."""
    found: dict[str, str] = {}
    for block in EXAMPLE.finditer((DOCS / page).read_text()):
        found[block["title"]] = found.get(block["title"], "") + block["content"]
    return found


@pytest.fixture
def follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Callable[[str], dict[str, Any]]]]:
    """Do what a page says, in an empty folder; returns a reader of the part files that it wrote."""
    monkeypatch.chdir(tmp_path)
    added: list[tuple[ModuleType, str]] = []
    before = [dict(registry) for registry in REGISTRIES]

    def do(page: str) -> Callable[[str], dict[str, Any]]:
        for title, content in examples(page).items():
            if title.startswith("src/"):
                assert (ROOT / title).is_file(), f"{page} adds to {title}, which does not exist"
                added.extend(add(title, content))
            else:
                (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / title).write_text(content)
        return lambda title: load_yaml(tmp_path / title)

    yield do
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()  # what an example added is taken away again
        registry.update(content)
    for module, name in added:
        delattr(module, name)


def add(title: str, content: str) -> list[tuple[ModuleType, str]]:
    """Run `content` as the last lines of the module at `title`; the names that this adds to it."""
    name = ".".join(Path(title).relative_to("src").with_suffix("").parts)
    module = importlib.import_module(name)
    before = set(vars(module))
    exec(compile(content, title, "exec"), vars(module))
    return [(module, name) for name in vars(module).keys() - before]


def draw(path: Path, size: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(path)
    return path


def test_every_example_has_a_test() -> None:
    """Examples are looked for in these pages alone; another page with some needs a test."""
    pages = {str(path.relative_to(DOCS)) for path in PAGES if examples(str(path))}
    kinds = ("dataset", "backbone", "llm", "method", "metric")
    elsewhere = "tutorial.md"  # tests/workflow/test_tutorial.py
    assert pages == {"index.md", elsewhere, *(f"extend/{kind}.md" for kind in kinds)}


def test_the_smallest_configuration(follow: Any) -> None:
    mine = follow("index.md")("config/mine.yaml")
    assert len(load_config(mine, [ROOT]).runs) == 18


def test_the_page_and_the_schemas_of_all_options_are_those_of_the_specs() -> None:
    """If it is not, run `python docs/gen_configuration.py`."""
    for name, content in load_script("docs/gen_configuration.py").files().items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, name


@pytest.mark.parametrize("table", sorted(path.stem for path in (DOCS / "study").glob("*.csv")))
def test_the_study_tells_the_scores_that_are_committed(table: str) -> None:
    """Every mean of its tables, and of its captions."""
    page = (DOCS / "study.md").read_text(encoding="utf-8")
    with (DOCS / "study" / f"{table}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    scores = [row for row in rows if row.get("std")]  # not the averages, nor the pairs
    assert scores or table.endswith(".pairs")
    for row in scores:
        assert f"{float(row['mean']):.2f} ± {float(row['std']):.2f}" in page


def test_a_dataset_of_ones_own(follow: Any, tmp_path: Path) -> None:
    dataset = follow("extend/dataset.md")("config/datasets/birds.yaml")
    check_schema(dataset, "dataset", "birds.yaml")
    root = tmp_path / dataset["root"]
    for split, count in (("train", 3), ("test", 1)):
        rows = map(json.loads, (root / f"manifest.{split}.jsonl").read_text().splitlines())
        for row in rows:
            draw(root / row["media"])
        samples, rejects, _ = build_manifest(root, rows_spec(dataset), split)
        assert (len(samples), rejects) == (count, [])
    assert samples[0].prompt == "What colour is the bird?\n\nAnswer:\n"
    assert samples[0].references == ["green"]


def test_tar_shards_and_tables(follow: Any) -> None:
    page = follow("extend/dataset.md")
    for name in ("pairs", "table"):
        path = f"config/datasets/{name}.yaml"
        spec = check_schema(page(path), "dataset", path)
        assert spec.columns.references in ("txt", "answers")
    without = {key: value for key, value in page(path).items() if key != "columns"}
    with pytest.raises(ConfigError, match="columns: parquet needs columns: media and references"):
        check_schema(without, "dataset", path)
    with pytest.raises(ConfigError, match="columns: generic knows its own columns"):
        check_schema({**page(path), "reader": "generic"}, "dataset", path)


def test_a_new_annotation_format(follow: Any, tmp_path: Path) -> None:
    dataset = follow("extend/dataset.md")("config/datasets/sightings.yaml")
    root = tmp_path / dataset["root"]
    draw(root / "images" / "7.png")
    samples, rejects, _ = build_manifest(root, rows_spec(dataset), "train", max_reject_fraction=0.5)
    assert [(sample.media, sample.references) for sample in samples] == [
        ("images/7.png", ["a robin"])
    ]
    assert [reject.media for reject in rejects] == ["images/8.png"]
    (root / "sightings.test.tsv").write_text("7\tWhich bird is it?\ta robin\n8\ta wren\n")
    with pytest.raises(AnnotationError, match=r"sightings\.test\.tsv, line 2"):
        build_manifest(root, rows_spec(dataset), "test")
    (root / "sightings.test.tsv").unlink()
    with pytest.raises(AnnotationError, match=r"sightings\.test\.tsv cannot be read"):
        build_manifest(root, rows_spec(dataset), "test")


def test_a_backbone_of_a_supported_architecture(follow: Any, tmp_path: Path) -> None:
    spec = follow("extend/backbone.md")("config/backbones/my-vit.yaml")
    check_schema(spec, "backbone", "my-vit.yaml")
    tiny_vit(tmp_path / spec["path"], image_size=spec["image_size"])
    assert tokens_of(spec, tmp_path).shape == (1, 12, 5, 192)


def test_a_backbone_of_a_new_architecture(follow: Any, tmp_path: Path) -> None:
    """Its tokens are timm's own feature map."""
    spec = follow("extend/backbone.md")("config/backbones/my-resnet.yaml")
    torch.manual_seed(0)
    model = timm.create_model(spec["model"]).eval()
    (tmp_path / spec["path"]).mkdir(parents=True)
    save_file(model.state_dict(), tmp_path / spec["path"] / "model.safetensors")
    tokens = tokens_of(spec, tmp_path)
    with torch.no_grad():
        features = model.forward_features(pixels_of(spec, tmp_path))
    assert torch.equal(tokens[:, 0, 1:], features.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 0, 0], features.mean(dim=(2, 3)))


def pixels_of(spec: dict[str, Any], folder: Path) -> torch.Tensor:
    return load_decoder(backbone_spec(spec))(draw(folder / "image.png")).unsqueeze(0)


@torch.no_grad()
def tokens_of(spec: dict[str, Any], folder: Path) -> torch.Tensor:
    """[1, L, T, D] of an image, through the decoder and the loader that the YAML names."""
    return load_backbone(backbone_spec(spec), folder / spec["path"])(pixels_of(spec, folder))


def test_an_llm_of_a_supported_family(follow: Any, tmp_path: Path) -> None:
    spec = follow("extend/llm.md")("config/llms/my-llama.yaml")
    check_schema(spec, "llm", "my-llama.yaml")
    write_llm(tmp_path / spec["path"])
    check_loop(load_llm(llm_spec(spec), tmp_path / spec["path"], "float32", "cpu"))


def test_an_llm_of_a_new_family(follow: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models/my-nanochat"
    write_llm(folder)  # for its tokenizer
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(0)
    config = NanoChatConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    NanoChatForCausalLM(config).save_pretrained(folder)
    unknown = llm_spec({"path": str(folder), "shape": {"layers": 2, "width": 32}})
    with pytest.raises(LLMError, match="computes 'nanochat' otherwise"):
        load_llm(unknown, folder, "float32", "cpu")
    spec = follow("extend/llm.md")("config/llms/my-nanochat.yaml")
    assert tmp_path / spec["path"] == folder
    check_loop(load_llm(llm_spec(spec), folder, "float32", "cpu"))


@torch.no_grad()
def check_loop(llm: Any) -> None:
    """The explicit loop and the library's own forward pass give the same logits."""
    ids = torch.tensor([[*llm.start, *llm.tokenize(["what colour is it?"])[0]]])
    logits = llm.head(hidden_states(llm, ids, Injection()))
    torch.testing.assert_close(logits, llm.model(ids).logits, rtol=1e-4, atol=1e-4)


BACKBONE = {"layers": 12, "tokens": 17, "width": 48}
LLM_SHAPE = {"layers": 8, "width": 64}


def test_a_method_as_yaml(follow: Any) -> None:
    method = follow("extend/method.md")("config/methods/qp_late.yaml")
    check_schema(method, "method", "qp_late.yaml")
    adapter = new_adapter(method, BACKBONE, LLM_SHAPE)
    assert (adapter.source_layers, adapter.target_layers) == ([10, 11], [2, 3, 4, 5, 6, 7])
    injection = adapter(torch.randn(2, 2, 17, 48))
    assert {tokens.shape for tokens in injection.tokens.values()} == {(2, 8, 64)}
    assert injection.prompt is not None
    assert injection.prompt.shape == (4, 64)


def test_a_method_with_lora(follow: Any) -> None:
    method = follow("extend/method.md")("config/methods/limber_all_lora.yaml")
    check_schema(method, "method", "limber_all_lora.yaml")
    for family in ("llama", "opt"):
        llm = tiny_llm(family)
        shape = {"layers": len(llm.layers), "width": llm.width}
        adapter = new_adapter(method, BACKBONE, shape, {"llm": llm.body})
        assert len(adapter.tuning["llm"].loras) == 2 * len(llm.layers)


def test_a_method_with_a_new_resampler(follow: Any) -> None:
    """Of each 2x2 patches the strongest is kept; CLS is kept in any case."""
    method = follow("extend/method.md")("config/methods/r_strongest_l0.yaml")
    adapter = new_adapter(method, BACKBONE, LLM_SHAPE).eval()
    strong = [0, *(1 + place for place in (5, 2, 8, 15))]  # CLS, and one in each 2x2 of the 4x4
    features = torch.randn(1, 1, 17, 48) * 1e-3
    features[0, 0, strong] += torch.randn(5, 48)
    connector = adapter.connectors[0]
    kept = connector.resampler(features[0])
    assert torch.equal(kept, features[0][:, strong])
    assert adapter(features).tokens[0].shape == (1, 5, 64)


def test_a_method_with_a_new_place(follow: Any) -> None:
    method = follow("extend/method.md")("config/methods/reversed.yaml")
    check_schema(method, "method", "reversed.yaml")
    adapter = new_adapter(method, BACKBONE, LLM_SHAPE).eval()
    features = torch.randn(1, 1, 17, 48)
    injection = adapter(features)
    expected = adapter.connectors[0](features[:, 0]).flip(1)
    assert list(injection.tokens) == [6, 7]
    assert all(torch.equal(tokens, expected) for tokens in injection.tokens.values())


def test_a_metric(follow: Any) -> None:
    dataset = follow("extend/metric.md")("config/datasets/quiz.yaml")
    references = {"a": ["a  Robin", "robin"], "b": ["wren"], "c": ["owl"], "d": ["kite"]}
    predictions = {"a": "A robin", "b": "a wren", "c": "owl", "d": "hawk"}
    assert score(references, predictions, dataset["metrics"])["exact_match"] == 50


def anchors(path: Path) -> set[str]:
    """The anchors of a page, as MkDocs makes them."""
    markdown = Markdown(extensions=["toc", "attr_list", "tables", "def_list"])
    return set(re.findall(r'\bid="([^"]+)"', markdown.convert(FENCE.sub("", path.read_text()))))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_of_a_page(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{page}: {link} is no anchor"


def test_every_page_is_in_the_navigation() -> None:
    """And stands there once."""

    def listed(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in listed(part)]

    text = (ROOT / "mkdocs.yml").read_text()
    pages = listed(yaml.safe_load(text)["nav"])
    assert sorted(pages) == [str(path.relative_to(DOCS)) for path in PAGES]


def test_cited_anchors_exist() -> None:
    known = {str(path.relative_to(DOCS)): anchors(path) for path in PAGES}
    for path in project_files():
        for citation in CITED.finditer(path.read_text(encoding="utf-8")):
            page, anchor = citation["page"], citation["anchor"]
            assert page in known, f"{path} cites {citation[0]}, which does not exist"
            assert anchor is None or anchor in known[page], f"{path} cites {citation[0]}"


def test_nothing_refers_to_files_outside() -> None:
    """Such as notes that lie beside the checkout of its authors."""
    outside = "../" + "shared"
    assert [str(path) for path in project_files() if outside in path.read_text("utf-8")] == []
