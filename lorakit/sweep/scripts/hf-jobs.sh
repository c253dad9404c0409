#!/usr/bin/env bash
@@about
set -euo pipefail
: "${HF_TOKEN:?is needed to push the records: export a token of the Hub that may write}"
specs=$(base64 < @@file | tr -d '\n')
work=$(cat <<'END'
@@work
END
)
for shard in @@numbers; do
  hf jobs run --detach --flavor @@flavor --timeout @@{minutes}m --secrets HF_TOKEN --env SPECS="$specs" \
    --env SHARD="$shard/@@shards" python:3.12 bash -c "$work"
done
