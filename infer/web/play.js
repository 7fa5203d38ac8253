
/* --- Answers that play ------------------------------------------------------------------------ */

/* The picture after the first n events: [state, text, round] of each place. */
function picture(sample, n) {
  const places = Array.from({length: sample.places}, () => ["masked", "", 0]);
  for (const event of sample.events.slice(0, n)) for (const [at, state, text] of event.changes) places[at] = [state, text, event.round];
  return places;
}

/* Shows how an answer came about, event by event: {node, show}.
 * show(sample, verdict) takes a trace (infer/README.md); its slider goes to the end. A trace that has grown since, while its answer is being
 * made, is shown again: the picture follows it as long as nobody moves the slider away from the end. verdict: words for the end, or "". */
function player() {
  let sample = {places: 0, slot_size: 1, events: []}, verdict = "", timer = null;
  const said = {plan: "drafts of the slots that were chosen", accept: "drafts judged one after the other", commit: "filled for good", end: "the whole answer"};
  const answer = el("div", {class: "answer"}), status = el("p", {class: "note"});
  const slider = el("input", {type: "range", min: 0, max: 0, value: 0, "aria-label": "events of the decoding", oninput: () => { stop(); draw(); }});
  const play = el("button", {type: "button", "aria-label": "play or pause", onclick: () => timer ? stop() : start()}, "▶");
  const step = (label, sign, by) => el("button", {type: "button", "aria-label": label, onclick: () => { stop(); slider.value = +slider.value + by; draw(); }}, sign);
  function stop() { clearInterval(timer); timer = null; play.textContent = "▶"; }
  function start() {
    if (+slider.value >= +slider.max) slider.value = 0;
    play.textContent = "❚❚";
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      draw();
      if (+slider.value >= +slider.max) stop();
    }, Math.max(80, Math.min(700, 8000 / +slider.max)));
  }
  function drawPlace([state, text, round], event) {
    const done = state === "committed", now = done && event && event.round === round && (event.event === "commit" || event.event === "end");
    return el("span", {class: "place " + state + (now ? " now" : ""), style: done ? (now ? `background:${color(round - 1)}` : `color:${color(round - 1)}`) : undefined},
      state === "masked" ? "·" : text.replace(/ /g, "␣"));
  }
  function draw() {
    const n = +slider.value, event = sample.events[n - 1];
    let slot = null;
    answer.replaceChildren();
    picture(sample, n).forEach((place, i) => {
      const [state, text] = place;
      if (i % sample.slot_size === 0) answer.append(slot = el("span", {class: sample.slot_size > 1 ? "slot" : "tight"}));
      if (state === "removed" || (text === "" && state !== "masked")) return;
      slot.append(drawPlace(place, event));
      if (text.endsWith("↵")) answer.append(el("br"));
    });
    answer.querySelectorAll(".slot").forEach(one => { if (!one.firstChild) one.remove(); else one.after(document.createElement("wbr")); });
    status.textContent = (event ? `round ${event.round}, forward pass ${event.forward}: ${said[event.event] || event.event}` : "nothing is decided") +
      (n === +slider.max && verdict ? "; " + verdict : "");
    slider.setAttribute("aria-valuetext", status.textContent);
  }
  function show(next, words) {
    const follow = next !== sample || (timer === null && +slider.value >= +slider.max);
    if (next !== sample) stop();
    sample = next;
    verdict = words;
    slider.max = sample.events.length;
    if (follow) slider.value = slider.max;
    draw();
  }
  const controls = el("div", {class: "controls"}, step("one event back", "‹", -1), play, step("one event on", "›", 1), slider);
  return {node: el("div", {class: "player"}, answer, controls, status), show};
}
player.legend = "Colours are rounds; dotted: drafts; struck out: rejected; ·: not decided.";
