# The settings that each decoder is tried with, a sweep a line: the same for every scale.
sweeps_ar="decode.kind=ar"
sweeps_mdm="
decode.kind=mdm decode.steps=0,8,4,2 decode.block_length=0,8
decode.kind=fast-dllm decode.cache=dual,prefix decode.threshold=0.5:0.9:0.2 decode.block_length=0,8"
sweeps_block="decode.kind=block decode.rule=quota,threshold decode.threshold=0.3:0.9:0.2"
sweeps_refusion="
decode.kind=refusion decode.slot_size=4,8 decode.slot_threshold=0.5,0.7,0.9,0.97 decode.token_threshold=0.2,0.4 decode.slot_score=first,min,mean decode.order_bias=1,0.5
decode.kind=refusion-left-to-right decode.slot_size=4,8 decode.token_threshold=0.2,0.4"
