# The page of man(1) of a script, from what it says with -h: "name.sh: what it does." and more.
#   sh train/plot.sh -h | awk -v name=refusion-plot -v version=0.1.0 -f common/base/manual/script.awk
function plain(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    gsub(/'/, "\\(aq", text)
    gsub(/`/, "\\(ga", text)
    gsub(/~/, "\\(ti", text)
    sub(/^\./, "\\\\\\&.", text)
    return text
}
NR == 1 {
    summary = $0
    sub(/^[^:]*: /, "", summary)
    sub(/[.,(].*/, "", summary)
    printf ".TH %s 1 \"\" \"refusion.c %s\"\n.SH NAME\n", plain(toupper(name)), version
    printf "%s \\- %s\n.SH DESCRIPTION\n.nf\n", plain(name), plain(summary)
    next
}
{ print $0 == "" ? ".sp" : plain($0) }
END { print ".fi" }
