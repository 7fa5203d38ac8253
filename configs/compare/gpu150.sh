# train/compare.sh configs/compare/gpu150.sh: countdown with 150 M parameters and 2e8 tokens an objective, one seed,
# otherwise as gpu.sh. An objective takes some ten minutes of a GPU; objectives=NAME makes one alone. `refusion` is tried with
# what the smaller models' sweeps chose and what lies around it.
. configs/compare/gpu.sh
tasks="countdown" seeds="1"
train_countdown=1500000
larger="model.hidden_size=768 model.intermediate_size=2304 model.num_hidden_layers=22 model.num_attention_heads=12 model.num_key_value_heads=4"
larger="$larger data.row_length=1024 train.batch_rows=64 train.micro_rows=32 optim.lr=6e-4"
set_countdown="$set_countdown $larger train.steps=3050"
sweeps_countdown_refusion="
decode.kind=refusion decode.slot_size=2,4 decode.slot_threshold=0.9,0.99 decode.token_threshold=0.4 decode.slot_score=min,mean
decode.kind=refusion-left-to-right decode.slot_size=2,4 decode.token_threshold=0.4"
