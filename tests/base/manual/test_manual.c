/* What the programs say of themselves: help, man pages, completion; and what make installs. */
#include "common/base/manual/manual.h"

#include "tests/infer/pty.h"
#include "tests/program.h"

TestSuite(manual, .init = program_begin, .fini = end_folder);

/* In the shell of a test: $1 stands for each program in turn. */
#define EACH_PROGRAM(commands)                                                                     \
    "set -e; for program in \"$DATA\" \"$CONVERT\" \"$TRAIN\" \"$INFER\" \"$EVAL\" \"$SERVE\"; "   \
    "do "                                                                                          \
    "name=${program##*/}; " commands "; done"

/* A command that the machine may lack: where it does, the test is skipped and says so. */
static void need(const char *command)
{
    char line[100];
    snprintf(line, sizeof line, "command -v %s", command);
    if (program_shell(line) != 0) {
        cr_skip_test("%s is not installed", command);
    }
}

/* --- Help ------------------------------------------------------------------------------------- */

Test(manual, help_is_the_same_however_it_is_asked_for)
{
    program_runs(
        EACH_PROGRAM("$program --help >a; $program -h >b; $program help >c; cmp a b; cmp a c; "
                     "grep -q \"^Usage: $name \" a; grep -q -e '^  -h, --help ' a; "
                     "grep -q '^Exit status: 0 done' a; "
                     "test \"$($program --version)\" = \"$($program nothing --version)\""),
        0);
    program_runs("set -e; for command in import export merge quantize; do "
                 "\"$CONVERT\" help $command >a; \"$CONVERT\" $command -h >b; cmp a b; "
                 "grep -q \"^Usage: refusion-convert $command \" a; grep -q -e --quiet a; done; "
                 "for command in build synth info encode decode render train-tokenizer; do "
                 "\"$DATA\" help $command >a; \"$DATA\" $command x --help >b; cmp a b; "
                 "grep -q \"^Usage: refusion-data $command \" a; done",
                 0);
    program_runs("\"$DATA\" help -h >a; \"$DATA\" -h >b; cmp a b", 0);
    program_refuses("\"$DATA\" help biuld", 2, "biuld: unknown command: did you mean build?");
    program_refuses("\"$DATA\" help --verison", 2, "unknown option: did you mean --version?");
    static const char *const single[] = {"TRAIN", "INFER", "EVAL", "SERVE"};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
        char command[64];
        snprintf(command, sizeof command, "\"$%s\" help build", single[i]);
        program_refuses(command, 2, "has no commands: see refusion-");
    }
}

/* Lines of text are no longer than a terminal, but for a synopsis and keys. */
Test(manual, help_fits_a_terminal)
{
    program_runs(EACH_PROGRAM("! $program -h | sed '/^Keys\\|^Settings/,$d' | grep '.\\{91\\}'"),
                 0);
    program_runs("! \"$DATA\" help build | grep '.\\{81\\}'", 0);
}

Test(manual, keys_may_change_where_a_run_goes_on)
{
    program_runs("\"$TRAIN\" -h | grep -q 'may change on resume' && "
                 "\"$TRAIN\" -h | grep -q -e '--change changes it on resume' && "
                 "! \"$INFER\" -h | grep 'resume' && ! \"$EVAL\" -h | grep 'on resume'",
                 0);
}

/* Each option table, through the words that the help lists. */
Test(manual, a_slip_is_answered_with_the_nearest_name)
{
    static const char *const cases[][2] = {
        {"\"$INFER\" --modle x", "--modle: unknown option: did you mean --model?"},
        {"\"$INFER\" -model x", "-model: unknown option: did you mean --model?"},
        {"\"$INFER\" --model x --temperature 0.5",
         "--temperature: is a setting here: write decode.temperature=VALUE"},
        {"\"$EVAL\" --model x --top-p=0.5", "--top-p=0.5: is a setting here: write decode.top_p="},
        {"\"$TRAIN\" x.yaml --lr 1e-4", "write optim.lr=VALUE"},
        {"\"$INFER\" --model x --backend cdua", "did you mean cuda?"},
        {"\"$INFER\" --model x --weights itn8", "did you mean int8?"},
        {"\"$EVAL\" --taks gsm8k", "did you mean --task?"},
        {"\"$EVAL\" --task gsm9k", "did you mean gsm8k?"},
        {"\"$SERVE\" --modle x", "--modle: unknown option: did you mean --model?"},
        {"\"$TRAIN\" --dryrun", "did you mean --dry-run?"},
        {"\"$TRAIN\" train.setps=3", "did you mean 'train.steps'?"},
        {"\"$TRAIN\" train.reduce=exakt", "did you mean exact?"},
        {"\"$TRAIN\" trian.reduce=exact", "did you mean 'train.reduce'?"},
        {"\"$CONVERT\" exprot a b", "did you mean export?"},
        {"\"$CONVERT\" import a b --dtype bf61", "did you mean bf16?"},
        {"\"$DATA\" synht sort", "did you mean synth?"},
        {"\"$DATA\" --hlep", "--hlep: unknown option: did you mean --help?"},
        {"\"$CONVERT\" -verison", "-verison: unknown option: did you mean --version?"},
        {"\"$CONVERT\" hlep", "hlep: unknown command: did you mean help?"},
        {"\"$DATA\" synth srot --n 3 --out x", "did you mean sort?"},
        {"\"$DATA\" build a --out b --turns eahc", "did you mean each?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        program_refuses(cases[i][0], 2, cases[i][1]);
    }
    program_refuses("printf 'train:\n  setps: 3\n' >slip.yaml; \"$TRAIN\" slip.yaml", 2,
                    "slip.yaml:2:3: unknown key 'train.setps': did you mean");
    program_refuses("printf 'trian:\n  steps: 3\n' >slip.yaml; \"$TRAIN\" slip.yaml", 2,
                    "did you mean 'train'?");
}

/* --- Man pages -------------------------------------------------------------------------------- */

static const char write_pages[] =
    EACH_PROGRAM("$program --man >$name.1") "\n\"$TRAIN\" --man config >refusion-config.5\n";

/* All that help lists is in the pages. */
Test(manual, pages_hold_what_help_says)
{
    program_runs(
        EACH_PROGRAM("$program --man | sed 's/\\\\-/-/g' >page; "
                     "$program -h | sed -n 's/^  \\(-h, \\)*\\(--[a-z-]*\\).*/\\2/p' >options; "
                     "grep -q -x -e --help options; "
                     "while read -r option; do grep -q -F -e \"$option\" page; done <options"),
        0);
    program_runs(
        "set -e\n\"$TRAIN\" --man config | sed 's/\\\\-/-/g' >page\n"
        "\"$TRAIN\" -h | sed -n 's/^  \\([a-z]*\\.[a-z_]*\\) .*/\\1/p' >keys\n"
        "test $(wc -l <keys) -gt 80\n"
        "while read -r key; do grep -q -F \"fB$key\\\\fR\" page || { echo $key >&2; exit 1; }; "
        "done <keys\n"
        "grep -q 'from 0 to 1e12' page; grep -q 'from 1 to 100000;' page\n"
        "! grep -e '[0-9]e[+0]' -e '[0-9]e-0' page >&2",
        0);
}

static void pages_are_right(const char *checker)
{
    char command[4096];
    snprintf(command, sizeof command,
             "%sfor page in *.[15]; do %s $page 2>&1 | grep -v 'missing date' || :; done >said\n"
             "cat said >&2; ! [ -s said ]",
             write_pages, checker);
    program_runs(command, 0);
}

Test(manual, groff_takes_the_pages)
{
    need("groff");
    pages_are_right("groff -Kutf8 -man -ww -Tutf8 -z");
}

Test(manual, mandoc_takes_the_pages)
{
    need("mandoc");
    pages_are_right("mandoc -Tlint -Wwarning");
}

/* --- Completion ------------------------------------------------------------------------------- */

/* What the last of these words may become, one after the other with a blank behind. */
static void completes(const char *words, const char *expected)
{
    char command[1024];
    snprintf(command, sizeof command, "%s | cut -f1 | tr '\\n' ' '", words);
    program_runs(command, 0);
    cr_assert_str_eq(program_output, expected, "%s: %s", words, program_output);
}

Test(manual, words_that_a_word_may_become)
{
    completes("\"$DATA\" --complete b", "build ");
    completes("\"$DATA\" --complete help sy", "synth ");
    completes("\"$DATA\" --complete build --sp", "--split-paragraphs ");
    completes("\"$DATA\" --complete build --turns ''", "each last all ");
    completes("\"$DATA\" --complete build --turns=l", "--turns=last ");
    completes("\"$DATA\" --complete build --out c", "FILE ");
    completes("\"$DATA\" --complete synth su", "sudoku4 sudoku9 FILE ");
    completes("\"$CONVERT\" --complete quantize --", "--quiet --help --version ");
    completes("\"$EVAL\" --complete --task mmlu", "mmlu-pro mmlu-pro-likelihood ");
    completes("\"$EVAL\" --complete --limit ''", "");
    completes("\"$TRAIN\" --complete --resume ''", "auto FILE no ");
    completes("\"$TRAIN\" --complete c.yaml train.redu", "train.reduce= FILE ");
    completes("\"$TRAIN\" --complete train.reduce=", "train.reduce=exact train.reduce=fast ");
    completes("\"$TRAIN\" --complete data.train=x", "FILE ");
    completes("\"$TRAIN\" --complete train.steps=", "");
    completes("\"$TRAIN\" --complete train.nothing=", "");
    completes("\"$TRAIN\" --complete", "");
}

/* What the line of a shell is after these keys, as echo shows it. */
static void types(const char *shell, const char *set_up, const char *const (*keys)[2], int n)
{
    static pty p;
    char command[4096];
    snprintf(command, sizeof command,
             "cd '%s' && PATH='%s':\"$PATH\" PS1='ready> ' HISTFILE= ROOT='%s' exec %s", folder,
             program_folder, program_root, shell);
    pty_run(&p, command, 24, 150);
    pty_type(&p, set_up);
    pty_wait(&p, 0, "set up!");
    for (int i = 0; i < n; i++) {
        const size_t before = p.n;
        pty_type(&p, keys[i][0]);
        pty_type(&p, "\x01"
                     "echo \n"); /* at the begin of the line */
        pty_wait(&p, before, keys[i][1]);
    }
    pty_type(&p, "exit\n");
    pty_end(&p);
}

static const char *const keys[][2] = {
    {"refusion-data bu\t", "\nrefusion-data build\r"},
    {"refusion-data build --turns ea\t", "\nrefusion-data build --turns each\r"},
    {"refusion-train --dr\t", "\nrefusion-train --dry-run\r"},
    {"refusion-train train.redu\te\t", "\nrefusion-train train.reduce=exact\r"},
    {"refusion-train data.train=corp\t", "\nrefusion-train data.train=corpus.h5\r"},
    {"refusion-train sma\tlog.di\trun", "\nrefusion-train small.yaml log.dir=run\r"},
    {"refusion-launch -n 2 --resume au\t", "\nrefusion-launch -n 2 --resume auto\r"},
};
enum { N_KEYS = sizeof keys / sizeof *keys };

static void put_files(void)
{
    program_runs(
        ": >small.yaml; : >corpus.h5; cp \"$ROOT/common/base/manual/refusion.zsh\" _refusion", 0);
}

Test(manual, bash_completes)
{
    need("bash");
    put_files();
    types("bash --norc --noprofile -i",
          "bind 'set enable-bracketed-paste off'; . \"$ROOT/common/base/manual/refusion.bash\"; "
          "echo set 'up!'\n",
          keys, N_KEYS);
}

Test(manual, zsh_completes)
{
    need("zsh");
    put_files();
    types("zsh -f -i",
          "unset zle_bracketed_paste; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; "
          "echo set 'up!'\n",
          keys, N_KEYS);
}

/* --- Installation ----------------------------------------------------------------------------- */

/* The programs of this build, whatever has changed since: make remakes none of them. */
#define MAKE                                                                                       \
    "env -u MAKEFLAGS -u MAKELEVEL make -s -C \"$ROOT\" OUT=\"${TRAIN%/*}\" -o \"$DATA\" "         \
    "-o \"$CONVERT\" -o \"$TRAIN\" -o \"$INFER\" -o \"$EVAL\" -o \"$SERVE\" DESTDIR=\"$PWD/to\" "  \
    "PREFIX=/usr "

Test(manual, what_is_installed_works_and_goes_again)
{
    program_runs("set -e\n" MAKE "install\ncd to/usr\n"
                 "for name in data convert train infer eval; do bin/refusion-$name --version; "
                 "test -s share/man/man1/refusion-$name.1; "
                 "test -s share/bash-completion/completions/refusion-$name; done\n"
                 "bin/refusion-launch -h | grep -q Usage\n"
                 "bin/refusion-plot -h | grep -q RUN_FOLDER\n"
                 "test -s share/man/man5/refusion-config.5\n"
                 "test -s share/zsh/site-functions/_refusion\n"
                 "for file in share/refusion/configs/*.yaml; do "
                 "bin/refusion-train $file --print-config >/dev/null; done\n"
                 "test -s share/doc/refusion/README.md\n"
                 "test -z \"$(find share/doc -name '*.[ch]')\"\n"
                 "test $(wc -c <bin/refusion-train) -lt $(wc -c <\"$TRAIN\")\n",
                 0);
    program_runs("set -e\n: >to/usr/bin/other\n" MAKE "uninstall\n"
                 "find to -type f >left; test \"$(cat left)\" = to/usr/bin/other\n"
                 "! [ -d to/usr/share ]\n" MAKE "uninstall\n",
                 0);
}

/* Links of all READMEs lead to files that are installed, too. */
Test(manual, links_of_readmes_hold_where_they_are_installed)
{
    program_runs(
        "set -e\n" MAKE "install\ncd to/usr/share/doc/refusion\n"
        "find . -name '*.md' >files; test $(wc -l <files) -gt 40\n"
        "for file in $(cat files); do "
        "for link in $(grep -o '][(][^)]*[)]' $file | sed 's/^](//; s/[#)].*//; /:/d'); do "
        "[ -e ${file%/*}/$link ] || { echo $file: $link >&2; exit 1; }; done; done",
        0);
}
