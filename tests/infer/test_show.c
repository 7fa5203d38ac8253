/* Pictures of made-up decodings, on a made-up terminal. */
#include "infer/show.h"
#include "tests/infer/infer_test.h"
#include "tests/infer/pty.h"
#include "tests/program.h"

enum { EOS = 256, MOST = 256 };

/* A response with the texts given for its slots, all in the states given. */
typedef struct scene {
    rf_sequence sequence;
    rf_slot_state slot[MOST];
    int64_t round[MOST];
    int32_t token[MOST], draft[MOST];
} scene;

static rf_decode_options decode; /* of all scenes */

static void scene_new(scene *s, int64_t n_slots, int64_t slot_size)
{
    decode = (rf_decode_options){.kind = rf_decoder_find("refusion"), .slot_size = slot_size};
    *s = (scene){.sequence = {.n_slots = n_slots,
                              .slot_size = slot_size,
                              .n_tokens = n_slots * slot_size,
                              .forwards = 1}};
    s->sequence.options = &decode;
    s->sequence.slot = s->slot;
    s->sequence.round = s->round;
    s->sequence.token = s->token;
    s->sequence.draft = s->draft;
    for (int64_t i = 0; i < s->sequence.n_tokens; i++) {
        s->token[i] = s->draft[i] = -1;
    }
}

/* Bytes of text from place i on; '$' is the end of text. */
static void put(int32_t *token, int64_t i, const char *text)
{
    for (; *text; text++, i++) {
        token[i] = *text == '$' ? EOS : (unsigned char)*text;
    }
}

/* What show writes for the event. */
static char *painted(rf_show *show, scene *s, rf_event_kind kind)
{
    char *text = NULL;
    size_t bytes = 0;
    cr_assert_not_null(show->out = open_memstream(&text, &bytes));
    s->sequence.forwards++;
    rf_show_observe(show, kind, &s->sequence);
    cr_assert_eq(fclose(show->out), 0);
    return text;
}

static void paint_on(screen *on, rf_show *show, scene *s, rf_event_kind kind)
{
    char *text = painted(show, s, kind);
    screen_write(on, text);
    cr_assert(on->wraps && on->color == -1 && on->column == 0);
    free(text);
}

static void expect_lines(const screen *s, int first, const char *const *lines, int n)
{
    for (int i = 0; i < n; i++) {
        cr_assert_str_eq(screen_line(s, first + i), lines[i]);
    }
}

/* A live picture for a terminal of this size, which has `above` lines of other text already. */
static rf_show live_show(screen *on, const rf_tokenizer *tokenizer, int lines, int columns,
                         int above)
{
    screen_new(on, lines, columns);
    for (int i = 0; i < above; i++) {
        screen_write(on, "above\r\n");
    }
    return (rf_show){.tokenizer = tokenizer, .live = true, .lines = lines, .columns = columns};
}

static screen on;
static scene s;

Test(show, states_have_their_styles)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_show show = live_show(&on, tokenizer, 10, 40, 2);
    char *text;
    scene_new(&s, 4, 3);
    s.slot[1] = s.slot[3] = RF_SLOT_SELECTED;
    put(s.draft, 0, "xyzabcxyzdef");
    paint_on(&on, &show, &s, RF_EVENT_PLAN);
    expect_lines(&on, 1,
                 (const char *[]){"above", "# masked draft rejected accepted rounds:",
                                  "###abc###def", "forward 2, 0 tokens", ""},
                 5);

    put(s.token, 3, "abc");
    s.slot[1] = RF_SLOT_COMMITTED;
    s.round[1] = 1;
    put(s.token, 9, "D");
    text = painted(&show, &s, RF_EVENT_ACCEPT);
    cr_assert(strstr(text, "\033[0;1mD\033[0;9;38;5;167mef"), "%s", text);
    screen_write(&on, text);
    free(text);
    expect_lines(&on, 3, (const char *[]){"###abc###Def", "forward 3, 4 tokens", ""}, 3);
    cr_assert(on.colors[3][3] == 39 && on.colors[3][9] == -1 && on.colors[3][0] == -1);

    put(s.token, 9, "D$");
    s.slot[3] = RF_SLOT_COMMITTED;
    s.round[3] = 2;
    text = painted(&show, &s, RF_EVENT_COMMIT);
    cr_assert(strstr(text, "\033[0;38;5;208m"));
    screen_write(&on, text);
    free(text);
    expect_lines(&on, 3, (const char *[]){"###abc###D#", "forward 4, 5 tokens", ""}, 3);

    /* An earlier end of text: the rest is cut off. */
    put(s.token, 0, "$");
    s.slot[0] = RF_SLOT_COMMITTED;
    s.round[0] = 3;
    s.slot[2] = RF_SLOT_REMOVED;
    paint_on(&on, &show, &s, RF_EVENT_END);
    expect_lines(&on, 3, (const char *[]){"#", "forward 5, 1 tokens", "", ""}, 4);
    rf_tokenizer_free(tokenizer);
}

/* Of two slots that were selected the first is committed: the drafts of the other are shown once more,
 * struck out. Those of a slot that was not selected never are. */
Test(show, rejected_drafts)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_show show = live_show(&on, tokenizer, 10, 80, 0);
    int64_t selected[] = {0, 2};
    scene_new(&s, 3, 2);
    s.sequence.selected = selected;
    s.sequence.n_selected = 2;
    put(s.draft, 0, "abxycd");
    put(s.token, 0, "ab");
    s.slot[0] = RF_SLOT_COMMITTED;
    s.round[0] = 1;
    char *text = painted(&show, &s, RF_EVENT_COMMIT);
    cr_assert(strstr(text, "\033[0;38;5;39mab\033[0;2m··\033[0;9;38;5;167mcd\033[0m"), "%s", text);
    screen_write(&on, text);
    free(text);
    expect_lines(&on, 0,
                 (const char *[]){"# masked draft rejected accepted rounds: 1 2 3 4 5 6 7 8 9 10",
                                  "ab##cd", "forward 2, 2 tokens"},
                 3);
    cr_assert(on.colors[0][strlen("# masked draft rejected accepted rounds: ")] == 39);
    paint_on(&on, &show, &s, RF_EVENT_PLAN);
    expect_lines(&on, 1, (const char *[]){"ab####", "forward 3, 2 tokens"}, 2);
    rf_tokenizer_free(tokenizer);
}

Test(show, lines_break_at_the_terminals_width_and_at_line_breaks)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_show show = live_show(&on, tokenizer, 12, 10, 0);
    scene_new(&s, 6, 4);
    for (int e = 0; e < 5; e++) {
        s.slot[e] = RF_SLOT_COMMITTED;
        s.round[e] = e + 1;
    }
    put(s.token, 0, "0123456789ab\ncdefghi");
    paint_on(&on, &show, &s, RF_EVENT_COMMIT);
    expect_lines(
        &on, 0,
        (const char *[]){"# masked", "0123456789", "ab#", "cdefghi###", "#", "forward 2,", ""}, 7);
    for (int i = 0; i < 3; i++) { /* frame over frame in the same place */
        paint_on(&on, &show, &s, RF_EVENT_COMMIT);
        cr_assert(on.line == 6 && on.n_scrolled == 0);
    }
    rf_tokenizer_free(tokenizer);
}

/* A picture taller than the terminal shows the lines that are being decided, then all of it. */
Test(show, tall_pictures_stay_in_place)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_show show = live_show(&on, tokenizer, 6, 8, 3);
    scene_new(&s, 10, 8);
    for (int e = 0; e < 10; e++) {
        char text[9] = "aaaaaaa";
        paint_on(&on, &show, &s, RF_EVENT_PLAN);
        cr_assert(show.n_painted == 5 && on.line == 5);
        text[7] = (char)('0' + e);
        put(s.token, e * 8, text);
        s.slot[e] = RF_SLOT_COMMITTED;
        s.round[e] = e + 1;
        if (e == 4) {
            paint_on(&on, &show, &s, RF_EVENT_COMMIT);
            expect_lines(&on, 0, (const char *[]){"aaaaaaa4", "########", "########", "########"},
                         4);
        }
    }
    paint_on(&on, &show, &s, RF_EVENT_END);
    expect_lines(&on, 0,
                 (const char *[]){"aaaaaaa6", "aaaaaaa7", "aaaaaaa8", "aaaaaaa9", "forward"}, 5);
    rf_tokenizer_free(tokenizer);
}

Test(show, characters_of_several_tokens_and_widths)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_show show = live_show(&on, tokenizer, 8, 10, 0);
    char *text;
    scene_new(&s, 1, 24);
    s.slot[0] = RF_SLOT_COMMITTED;
    s.round[0] = 1;
    /* two wide characters; a combining accent; a broken one; what could steer a terminal */
    put(s.token, 0,
        "日本e\xCC\x81"
        "aéb\xE6z\033\xC2\x9B"
        "c\xE2\x80\xAE$");
    text = painted(&show, &s, RF_EVENT_COMMIT);
    cr_assert(strstr(text, "日本e\xCC\x81"
                           "aéb"),
              "%s", text);
    cr_assert(strstr(text, "b\xEF\xBF\xBDz\n\033[K??c?■"), "%s", text); /* ten columns a line */
    cr_assert(!strstr(text, "\xC2\x9B") && !strstr(text, "\xE2\x80\xAE"));
    free(text);
    rf_tokenizer_free(tokenizer);
}

Test(show, is_plain_on_a_file)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    FILE *file = tmpfile();
    rf_show show;
    char *text;
    cr_assert_not_null(file);
    rf_show_init(&show, file, tokenizer, 0);
    cr_assert(!show.live);
    fclose(file);
    scene_new(&s, 3, 4);
    s.slot[0] = s.slot[2] = RF_SLOT_COMMITTED;
    s.round[0] = 1;
    s.round[2] = s.sequence.rounds = 2;
    put(s.token, 0, "ab\nc");
    put(s.token, 8, "é$");
    text = painted(&show, &s, RF_EVENT_PLAN);
    cr_assert_str_eq(text, "");
    free(text);
    text = painted(&show, &s, RF_EVENT_COMMIT);
    cr_assert_str_eq(text, "round 2, forward 3: slot 2 «é■»\n");
    free(text);
    decode.slot_size = 16; /* these are their quarters */
    text = painted(&show, &s, RF_EVENT_COMMIT);
    cr_assert_str_eq(text, "round 2, forward 4, slots of 4 tokens (1/4): slot 2 «é■»\n");
    free(text);
    rf_tokenizer_free(tokenizer);
}

static void begin_pictures(void)
{
    program_begin();
    cr_assert(chdir(folder) == 0);
}

/* What picture.sh draws of these lines holds all of these, NULL behind the last. */
static void expect_picture(const char *lines, const char *const *parts)
{
    program_write("lines", lines);
    program_runs("sh \"$ROOT/infer/picture.sh\" <lines", 0);
    for (; *parts != NULL; parts++) {
        cr_assert_not_null(strstr(program_output, *parts), "%s is not in:\n%s", *parts,
                           program_output);
    }
}

#define BOX(x, y, width) "<rect x=\"" x "\" y=\"" y "\" width=\"" width "\" height=\"30\""
#define TEXT(text)       ">" text "</text>"

Test(show, pictures_place_halves_below_their_slots, .init = begin_pictures, .fini = leave_folder)
{
    expect_picture("round 1, forward 1: slot 0 «ab»\n"
                   "round 2, forward 2, slots of 1 token (1/2): slot 3 «d»\n"
                   "round 3, forward 3, slots of 1 token (1/2): slot 2 «c»\n",
                   (const char *[]){BOX("190", "14", "154") " rx=\"5\" fill=\"#2a9d8f\"",
                                    BOX("350", "14", "154") " rx=\"5\" fill=\"#ffffff\"",
                                    BOX("190", "54", "154") " rx=\"5\" fill=\"#eaeef2\"",
                                    BOX("350", "54", "74") " rx=\"5\" fill=\"#ffffff\"",
                                    BOX("430", "54", "74") " rx=\"5\" fill=\"#e76f51\"",
                                    BOX("350", "94", "74") " rx=\"5\" fill=\"#577590\"",
                                    BOX("430", "94", "74") " rx=\"5\" fill=\"#eaeef2\"", TEXT("ab"),
                                    TEXT("c"), TEXT("d"), NULL});
}

Test(show, pictures_of_answers_that_speak_of_slots, .init = begin_pictures, .fini = leave_folder)
{
    expect_picture("round 1, forward 1: slot 0 «a slot 7 is» slot 1 «b»\n",
                   (const char *[]){TEXT("a␣slot␣7␣is"), TEXT("b"), NULL});
    cr_assert_null(strstr(program_output, "····"), "%s", program_output);
}
