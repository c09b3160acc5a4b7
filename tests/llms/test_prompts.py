"""How prompts and answers become tokens: the exact ids, by tokenizers in the published formats."""

from pathlib import Path

import pytest
import yaml
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from depalm.datasets.manifest import Sample
from depalm.llms.base import LLM, LLMError
from depalm.llms.load import load_llm
from depalm.specs import PromptSpec
from depalm.training.batches import encode
from tests.support.llms import SIZES, save, unigram_of_words
from tests.support.specs import llm_spec

CONFIG = Path(__file__).parents[2] / "config" / "llms"
QUESTION = "is it red\n\nAnswer:"
PAPER = PromptSpec(space=True, end_token=True)
PLAIN = PromptSpec()
# of SentencePiece, "▁" is a space, and one stands in front of every text
LLAMA = ["<unk>", "<s>", "</s>", "▁is", "▁it", "▁red", "\n", "A", "nswer", ":", "▁", "▁yes"]
LLAMA_IDS = {piece: number for number, piece in enumerate([*LLAMA, "▁Answer", "Answer", "yes"])}
# of GPT-2's byte level, "Ġ" is a space and "Ċ" a line break
OPT = ["<s>", "<pad>", "</s>", "<unk>", "is", "Ġit", "Ġred", "Ċ", "Answer", ":", "Ġ", "yes"]
OPT_IDS = {piece: number for number, piece in enumerate(OPT)}


def llama(directory: Path) -> None:
    config = LlamaConfig(**SIZES, intermediate_size=48, vocab_size=len(LLAMA_IDS))
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(unigram_of_words(LLAMA_IDS, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>")])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    save(directory, tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def opt(directory: Path, rows: int = 16) -> None:
    """With more rows of the embedding than tokens, as published."""
    config = OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, vocab_size=rows)
    OPTForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(unigram_of_words(OPT_IDS, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    save(directory, tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def loaded(name: str, directory: Path, prompts: PromptSpec) -> LLM:
    """A tiny model by the file of a shipped one."""
    content = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    {"llama": llama, "opt": opt}[content["family"]](directory)
    kept = {key: content[key] for key in ("answer_prompt", "prompt_end") if key in content}
    shape = {"layers": 3, "width": 32}
    spec = llm_spec({"family": content["family"], "shape": shape, **kept})
    return load_llm(spec, directory, "float32", "cpu", prompts)


def ids(vocabulary: dict[str, int], *pieces: str) -> list[int]:
    return [vocabulary[piece] for piece in pieces]


ASKED = ["<s>", "▁is", "▁it", "▁red", "\n", "\n", "Answer", ":"]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("llama", ["<s>"]),
        *(
            (name, ["<s>", "▁Answer", ":", "▁"])
            for name in ("alpaca", "llama2", "llama2-chat", "vicuna")
        ),
    ],
)
def test_the_ids_of_the_llama_family_in_the_paper(
    tmp_path: Path, name: str, caption: list[str]
) -> None:
    """Captions have no prompt but BOS, or "Answer: "; a question gets a space."""
    llm = loaded(name, tmp_path, PAPER)
    found = llm.prompt_ids(["", QUESTION, "is it\n", "is it "])
    assert found[0] == ids(LLAMA_IDS, *caption)
    assert found[1] == ids(LLAMA_IDS, *ASKED, "▁")
    assert found[2] == ids(LLAMA_IDS, "<s>", "▁is", "▁it", "\n")  # a line break is enough
    assert found[3] == ids(LLAMA_IDS, "<s>", "▁is", "▁it", "▁")


def test_the_ids_of_opt_in_the_paper(tmp_path: Path) -> None:
    """BOS, text, </a>, answer, EOS: white space around </a> is lost."""
    llm = loaded("opt-6.7b", tmp_path, PAPER)
    end = len(OPT_IDS)  # the first id behind the vocabulary
    assert llm.prompt_ids(["", QUESTION, "is it\n"]) == [
        [*ids(OPT_IDS, "</s>", "Answer", ":"), end],
        [*ids(OPT_IDS, "</s>", "is", "Ġit", "Ġred", "Ċ", "Ċ", "Answer", ":"), end],
        [*ids(OPT_IDS, "</s>", "is", "Ġit"), end],
    ]
    data = encode(llm, [Sample("1", "m", QUESTION, ["yes", " yes"])], 5)
    [texts] = data.texts
    assert [answer for _, answer in texts] == [ids(OPT_IDS, "yes", "</s>")] * 2
    assert [prompt for prompt, _ in texts] == llm.prompt_ids([QUESTION]) * 2
    # the same as one text
    together = PAPER.model_copy(update={"tokenize": "together"})
    again = loaded("opt-6.7b", tmp_path / "together", together)
    assert encode(again, [Sample("1", "m", QUESTION, ["yes", " yes"])], 5) == data


def test_by_default_a_prompt_is_as_it_is_written(tmp_path: Path) -> None:
    llm = loaded("opt-6.7b", tmp_path / "opt", PLAIN)
    assert llm.prompt_ids([""]) == [ids(OPT_IDS, "</s>", "Answer", ":", "Ġ")]
    assert llm.prompt_ids([QUESTION])[0][-1] == OPT_IDS[":"]
    llm = loaded("llama", tmp_path / "llama", PLAIN)
    assert llm.prompt_ids([QUESTION]) == [ids(LLAMA_IDS, *ASKED)]


def test_prompt_and_answer_tokenized_together_lose_what_spans_their_boundary(
    tmp_path: Path,
) -> None:
    """The prompt's last space and the answer are one piece, which is not learned."""
    sample = Sample("1", "m", QUESTION, ["yes"])
    together = PAPER.model_copy(update={"tokenize": "together"})
    [[text]] = encode(loaded("llama", tmp_path / "a", together), [sample], 5).texts
    assert text == (ids(LLAMA_IDS, *ASKED, "▁yes"), ids(LLAMA_IDS, "</s>"))
    [[text]] = encode(loaded("llama", tmp_path / "b", PAPER), [sample], 5).texts
    assert text == (ids(LLAMA_IDS, *ASKED, "▁"), ids(LLAMA_IDS, "▁yes", "</s>"))


def test_a_token_needs_a_row_of_the_embedding(tmp_path: Path) -> None:
    opt(tmp_path, rows=len(OPT_IDS))
    spec = llm_spec({"family": "opt", "shape": {"layers": 3, "width": 32}, "prompt_end": "</a>"})
    with pytest.raises(LLMError, match=r"'</a>' would be token 12, .* has 12 rows: set prompt"):
        load_llm(spec, tmp_path, "float32", "cpu", PAPER)
