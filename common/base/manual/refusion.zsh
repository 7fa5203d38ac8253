#compdef refusion-data refusion-convert refusion-train refusion-infer refusion-eval refusion-serve refusion-launch
# zsh completion of refusion-*: the programs themselves say what a word may become (--complete).

local program=$words[1] line word files=
local -a asked plain open
asked=("${(@Q)words[2,CURRENT]}")
if [[ ${program:t} == refusion-launch ]]; then # -n RANKS, then the words of refusion-train
    while [[ $asked[1] == (-n|--restart) ]] && (( $#asked > 2 )); do shift 2 asked; done
    program=${program/%refusion-launch/refusion-train}
fi
while IFS= read -r line; do
    word=${line%%$'\t'*}
    case $word in
    FILE) files=1 ;;
    *=) open+=("$word") ;;
    *) plain+=("${word//:/\\:}:${line#*$'\t'}") ;;
    esac
done < <($program --complete "${asked[@]}" 2>/dev/null)
(( $#plain )) && _describe -t words word plain
(( $#open )) && compadd -S '' -a open
if [[ -n $files ]]; then
    compset -P '*='
    _files
fi
