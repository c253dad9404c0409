"""Tokenizers of the kinds that people meet, trained here in a moment on a few words."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = "question answer yes no one two three user assistant system make the of is it goes on \n"
CHAT = ("{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
MARKED = ("{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' %}{% generation %}"
          "{{ m['content'] }}{{ eos_token }}\n{% endgeneration %}{% else %}{{ m['content'] }}{{ eos_token }}\n"
          "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}")  # the same, with marks


def small_tokenizer(kind, template=None):
    """`gpt2`: bytes, nothing added; `prefix`: with a blank before each text; `llama`: `<s>` before each text, blanks
    as `▁`; `both`: also `</s>` behind; `same`: one token is beginning, end and padding."""
    spaced = kind in ("llama", "both")
    tokenizer = Tokenizer(models.BPE(byte_fallback=spaced, unk_token="<unk>"))
    tokenizer.pre_tokenizer = (pre_tokenizers.Metaspace() if spaced
                               else pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix"))
    tokenizer.decoder = decoders.Metaspace() if spaced else decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if spaced)]
    alphabet = [] if spaced else pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([WORDS] * 20, trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if spaced:
        tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>" if kind == "both" else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
    begin = "</s>" if kind == "same" else "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token="</s>", unk_token="<unk>",
                                   chat_template=template)
