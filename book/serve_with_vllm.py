"""Serving an adapter with vLLM: *Start to finish* includes these lines, and `make test-vllm` executes them.

They start from `base` and `adapter` (folders), `prompts` and `longest` (tokens of an answer).
"""

# [serve]
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

engine = LLM(model=base, dtype="float32", enable_lora=True, max_loras=2,
             max_lora_rank=16)
greedy = SamplingParams(temperature=0, max_tokens=longest, stop="\n")
request = LoRARequest("readings", 1, adapter)
done = engine.generate(prompts, greedy, lora_request=request)
texts = [one.outputs[0].text for one in done]
# [/serve]
