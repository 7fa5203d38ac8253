# train/compare.sh configs/compare/long.sh: answers of 129 places, one seed: what decoding costs where masked
# diffusion at one token a step makes as many passes as an answer has places.
. configs/compare/decoders.sh
model=configs/compare/model.yaml
objectives="ar mdm refusion"
tasks="chain sort"
seeds="1"
within=1
rates_ar="1e-3 2e-3" rates_mdm="2e-3 4e-3" rates_refusion="1e-3 2e-3"
longer="train.steps=10000 data.row_length=264 decode.gen_length=129"

# 43 sums, each of the one before it; 43 numbers in ascending order: 128 characters and the end.
kind_chain=arithmetic synth_chain="--option chain=true --option parts=43 --option pad=true"
train_chain=300000 valid_chain=100 test_chain=300
set_chain=$longer
kind_sort=sort synth_sort="--option parts=43 --option pad=true"
train_sort=300000 valid_sort=100 test_sort=300
set_sort=$longer
set_chain_refusion="objective.slot_sizes=3 decode.slot_size=3" set_sort_refusion=$set_chain_refusion

# Blocks of 43 and 129: others do not divide 129.
sweeps_mdm="
decode.kind=mdm decode.steps=129,64,32,16 decode.block_length=129
decode.kind=fast-dllm decode.cache=dual,prefix decode.threshold=0.5:0.9:0.2 decode.block_length=43,129"
sweeps_refusion="
decode.kind=refusion decode.slot_size=3 decode.slot_threshold=0.5,0.9,0.99 decode.token_threshold=0.4 decode.slot_score=min,mean decode.order_bias=1,0.5
decode.kind=refusion-left-to-right decode.slot_size=3 decode.token_threshold=0.4"
