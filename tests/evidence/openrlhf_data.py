"""What OpenRLHF's own code makes of the command line of ops/jobs/openrlhf.yaml and of what Joust writes, without a GPU.

Stands in deepspeed's place: reads the arguments behind --module by the parser in openrlhf/cli/train_dpo.py, loads the pairs by
openrlhf.datasets, compares each answer's tokens with those that Joust recorded, and leaves the base as it is: nothing is trained.

usage: openrlhf_data.py PURELIB [deepspeed's options] --module openrlhf.cli.train_dpo ...
"""

import ast
import json
import os
import shutil
import sys
import types

import torch

purelib, arguments = sys.argv[1], sys.argv[2:]
module = arguments.index("--module")
assert arguments[module + 1] == "openrlhf.cli.train_dpo", arguments
sys.path.insert(0, purelib)

from openrlhf.datasets import RewardDataset
from openrlhf.datasets.utils import blending_datasets
from openrlhf.utils import get_tokenizer

with open(f"{purelib}/openrlhf/cli/train_dpo.py") as file:
    tree = ast.parse(file.read())
parsed = []
space = {"train": parsed.append}
for node in tree.body:  # its imports are of GPUs' packages: the standard library's and the parser are taken
    if isinstance(node, (ast.Import, ast.ImportFrom)) and not (getattr(node, "module", None) or "").startswith("openrlhf"):
        exec(compile(ast.Module([node], []), "train_dpo.py", "exec"), space)
    elif isinstance(node, ast.If):
        sys.argv = ["train_dpo.py", *arguments[module + 2 :]]
        exec(compile(ast.Module(node.body, []), "train_dpo.py", "exec"), space)
args = parsed[0]

strategy = types.SimpleNamespace(args=args, print=lambda *a: None, is_rank_0=lambda: False)
tokenizer = get_tokenizer(args.model.model_name_or_path, None, "right", strategy)
data = blending_datasets(args.data.dataset, args.data.dataset_probs, strategy, args.train.seed, max_count=args.data.max_samples,
                         dataset_split=args.data.dataset_split)
pairs = RewardDataset(data, tokenizer, args.data.max_len, strategy, input_template=args.data.input_template, is_dpo=True,
                      num_processors=1)
with open(os.environ["JOUST_PAIRS"]) as file:
    lines = [json.loads(line) for line in file]
assert len(pairs) == len(lines) == int(os.environ["JOUST_N_PAIRS"]), (len(pairs), len(lines))
alike = prompts = ended = 0
for line, (chosen, chosen_mask, rejected, rejected_mask, n_prompt) in zip(lines, (pairs[i] for i in range(len(pairs)))):
    prompts += tokenizer(line["prompt"], add_special_tokens=False)["input_ids"] == line["prompt_tokens"]
    for ids, name in ((chosen, "chosen"), (rejected, "rejected")):
        ours = line["prompt_tokens"] + line[f"{name}_tokens"]
        alike += ids[0, : len(ours)].tolist() == ours
        ended += ids[0, -1].item() == tokenizer.eos_token_id
batch = pairs.collate_fn([pairs[i] for i in range(min(len(pairs), args.train.batch_size))])
assert all(torch.is_tensor(t) for t in batch[:4])
assert args.ref.model_name_or_path == os.environ["JOUST_REFERENCE"] and args.model.beta == float(os.environ["JOUST_BETA"])
shutil.copytree(args.model.model_name_or_path, args.ckpt.output_dir, dirs_exist_ok=True)
print(f"{len(pairs)} pairs read by OpenRLHF's RewardDataset; prompts of the same tokens {prompts} of {len(lines)}, answers that begin",
      f"with all of ours {alike} of {2 * len(lines)}, ended by eos {ended}; a batch is {tuple(batch[0].shape)};",
      f"beta {args.model.beta}, learning rate {args.adam.lr}, batch {args.train.batch_size}, zero stage {args.ds.zero_stage}")
