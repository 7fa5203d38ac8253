
/* --- The server ------------------------------------------------------------------------------- */

const at = id => document.getElementById(id);
const kept = {
  get(name) { try { return JSON.parse(sessionStorage.getItem(name)); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* a private window: nothing is kept */ } },
};
function problem(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}
/* A request with the key, where one is needed. Throws an Error with the server's words. */
async function request(path, options) {
  const key = kept.get("key");
  const headers = {...(options && options.body ? {"Content-Type": "application/json"} : {}), ...(key ? {Authorization: "Bearer " + key} : {})};
  const reply = await fetch(path, {...options, headers});
  if (reply.ok) return reply;
  const text = await reply.text();
  let said = `${reply.status} ${reply.statusText}`;
  try { said = JSON.parse(text).error.message; } catch { /* no error of the server's own */ }
  throw Object.assign(new Error(said), {status: reply.status});
}
/* Server-sent events of a reply: calls take(event, data) for each. */
async function events(reply, take) {
  const reader = reply.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    rest += decoder.decode(value || new Uint8Array(), {stream: !done});
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/), field = name => lines.filter(line => line.startsWith(name + ":")).map(line => line.slice(name.length + 1).replace(/^ /, ""));
      const text = field("data").join("\n");
      if (text && text !== "[DONE]") take(field("event")[0] || "message", JSON.parse(text));
    }
    if (done) return;
  }
}

/* --- Settings --------------------------------------------------------------------------------- */

/* What people change most; each is shown where the chosen decoder reads it. Other keys of decode.*: refusion-serve --help. */
const knobs = [
  {name: "gen_length", label: "answer, tokens at most", min: 1, step: 1},
  {name: "slot_size", label: "slot size, tokens", min: 1, step: 1},
  {name: "slot_least", label: "slots are halved down to (0: never)", min: 0, step: 1},
  {name: "slot_threshold", label: "slot threshold", min: 0, max: 1, step: 0.01},
  {name: "token_threshold", label: "token threshold", min: 0, max: 1, step: 0.01},
  {name: "slot_score", label: "score of a slot", choices: ["first", "product", "mean", "min", "margin", "entropy", "expected"]},
  {name: "order_bias", label: "bias to the left (1: none)", min: 0.001, max: 1, step: 0.001},
  {name: "block_length", label: "block of tokens (0: whole answer)", min: 0, step: 1},
  {name: "steps", label: "steps (0: one a token)", min: 0, step: 1},
  {name: "threshold", label: "threshold", min: 0, max: 1, step: 0.01},
  {name: "temperature", label: "temperature", min: 0, max: 100, step: 0.05},
  {name: "top_p", label: "top-p", min: 0, max: 1, step: 0.01},
  {name: "seed", label: "seed", min: 0, step: 1},
];
let model = null, chosen = {};
const reads = (kind, name) => { const decoder = model.refusion.decoders.find(one => one.name === kind); return decoder && !decoder.ignores.includes(name); };
const rival = kind => ["ar", "refusion-left-to-right"].find(name => name !== kind && model.refusion.decoders.some(one => one.name === name && one.fits));

function keep() { kept.set("settings", chosen); }
function drawKnob(knob) {
  const value = chosen[knob.name] ?? model.refusion.defaults[knob.name];
  const take = event => {
    if (!event.target.checkValidity()) { event.target.reportValidity(); return; }
    chosen[knob.name] = knob.choices ? event.target.value : Number(event.target.value);
    keep();
  };
  return el("label", {}, knob.label, knob.choices
    ? el("select", {onchange: take}, knob.choices.map(choice => el("option", {selected: choice === value}, choice)))
    : el("input", {type: "number", value, min: knob.min, max: knob.max, step: knob.step, required: true, onchange: take}));
}
function check(name, label, hint) {
  return el("label", {class: "check", title: hint}, el("input", {type: "checkbox", checked: chosen[name] ?? true, onchange: event => { chosen[name] = event.target.checked; keep(); draw(); }}), label);
}
function draw() {
  const kind = chosen.kind ?? model.refusion.defaults.kind;
  at("settings").replaceChildren(...[
    el("label", {}, "decoder", el("select", {onchange: event => { chosen.kind = event.target.value; keep(); draw(); }},
      model.refusion.decoders.map(one => el("option", {value: one.name, selected: one.name === kind}, one.name + (one.fits ? "" : " (not trained for it)"))))),
    knobs.filter(knob => knob.name in model.refusion.defaults && reads(kind, knob.name)).map(drawKnob),
    rival(kind) ? check("beside", `${rival(kind)} beside it`, "answers again with that decoder and shows both times") : [],
    model.refusion.chat_template ? check("chat", "as a conversation", "off: the text is continued as it is, without the model's chat template") : [],
    el("div", {class: "controls"}, el("button", {type: "button", onclick: () => { chosen = {}; keep(); draw(); }}, "Defaults"))].flat());
  at("text-label").textContent = chats() ? "Your message" : "Text to be continued";
  at("side").open = matchMedia("(min-width: 761px)").matches || at("side").dataset.seen === "yes";
  at("side").dataset.seen = at("side").open ? "yes" : "no";
}
const chats = () => model.refusion.chat_template && (chosen.chat ?? true);
/* decode.* of a request; keys that the decoder does not read stay at home. A shorter length only cuts (max_tokens), a longer one makes
   canvases longer, too. */
function decodeOf(kind) {
  const goes = ([name, value]) => reads(kind, name) && (name !== "gen_length" || value > model.refusion.defaults.gen_length);
  const own = Object.entries(chosen).filter(one => knobs.some(knob => knob.name === one[0]) && goes(one));
  return {kind, ...Object.fromEntries(own)};
}

/* --- Talk ------------------------------------------------------------------------------------- */

let messages = [], busy = null;

function turn(role, title, ...children) {
  const node = el("section", {class: "turn " + role}, el("h3", {}, title), children);
  at("talk").append(node);
  return node;
}
/* Asks once; the events and the text are shown as they come. Returns {text, usage}. */
async function answer(history, kind, signal, shows) {
  const length = chosen.gen_length ?? model.refusion.defaults.gen_length;
  const body = {model: model.id, max_tokens: length, stream: true, stream_options: {include_usage: true, slots: true}, decode: decodeOf(kind)};
  const last = history[history.length - 1].content;
  const reply = chats()
    ? await request("/v1/chat/completions", {method: "POST", signal, body: JSON.stringify({...body, messages: history})})
    : await request("/v1/completions", {method: "POST", signal, body: JSON.stringify({...body, prompt: last})});
  const result = {text: "", usage: null, trace: {places: 0, slot_size: 1, events: []}};
  let due = false;
  await events(reply, (event, data) => {
    if (event === "slots") {
      if (data.places) Object.assign(result.trace, {places: data.places, slot_size: data.slot_size});
      result.trace.events.push(data);
    } else if (data.error) {
      throw new Error(data.error.message);
    } else {
      const choice = (data.choices || [])[0];
      if (choice) result.text += chats() ? choice.delta.content || "" : choice.text;
      if (data.usage) result.usage = data.usage;
    }
    if (!due) { due = true; requestAnimationFrame(() => { due = false; shows(result, ""); }); }
  });
  return result;
}
/* The figures of each decoder side by side; the better of each column is set off. */
function figures(lines) {
  const columns = [["decoder", u => u.kind], ["tokens", u => u.completion_tokens], ["forward passes", u => u.forwards], ["tokens a pass", u => u.tokens_per_forward, 2, 1],
    ["seconds", u => u.seconds, 3, -1], ["tokens/s", u => u.completion_tokens / u.seconds, 0, 1]];
  const best = columns.map(([, of, , sign]) => sign && lines.length > 1 ? sign * Math.max(...lines.map(u => sign * of(u))) : null);
  return el("div", {class: "wide", tabindex: 0, role: "region", "aria-label": "figures"}, el("table", {class: "figures"}, el("thead", {}, el("tr", {}, columns.map(([title]) => el("th", {scope: "col"}, title)))),
    el("tbody", {}, lines.map(u => el("tr", {}, columns.map(([, of, n], i) =>
      el("td", {class: best[i] !== null && of(u) === best[i] ? "best" : ""}, isNumber(of(u)) ? digits(of(u), n || 0) : of(u))))))));
}
async function ask(text) {
  const kind = chosen.kind ?? model.refusion.defaults.kind, film = player(), said = el("p", {class: "said"}), below = el("div");
  const history = chats() ? [...messages, {role: "user", content: text}] : [{role: "user", content: text}];
  const own = turn("user", "You", el("p", {class: "said"}, text));
  const node = turn("assistant", kind, film.node, el("details", {}, el("summary", {}, "as text"), said), below);
  const shows = (result, verdict) => { film.show(result.trace, verdict); said.textContent = result.text; };
  const lines = [];
  busy = new AbortController();
  at("send").disabled = true;
  at("stop").hidden = false;
  problem("");
  own.scrollIntoView({block: "start"});
  try {
    const result = await answer(history, kind, busy.signal, shows);
    shows(result, "");
    messages = [...history, {role: "assistant", content: result.text}];
    at("spoken").textContent = result.text || "The answer is empty.";
    lines.push({kind, ...result.usage});
    below.replaceChildren(figures(lines));
    const other = rival(kind);
    if (other && (chosen.beside ?? true)) {
      below.append(el("p", {class: "note"}, `${other} answers ...`));
      lines.push({kind: other, ...(await answer(history, other, busy.signal, () => {})).usage});
    }
  } catch (error) {
    if (lines.length === 0) {
      node.append(el("p", {class: "note"}, error.name === "AbortError" ? "stopped" : "no answer"));
      messages = history.slice(0, -1);
    }
    if (error.name !== "AbortError") {
      problem(error instanceof TypeError ? "The server does not answer: is refusion-serve running?" : error.message);
      if (lines.length === 0 && !at("text").value) at("text").value = text;
    }
  } finally {
    if (lines.length > 0) below.replaceChildren(figures(lines));
    busy = null;
    at("send").disabled = false;
    at("stop").hidden = true;
    at("text").focus();
  }
}

/* --- Controls --------------------------------------------------------------------------------- */

at("ask").addEventListener("submit", event => {
  event.preventDefault();
  const text = at("text").value;
  if (busy || !model || !text.trim()) return;
  at("text").value = "";
  ask(text);
});
at("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
});
document.addEventListener("keydown", event => { if (event.key === "Escape" && busy) busy.abort(); });
at("stop").addEventListener("click", () => busy && busy.abort());
at("new").addEventListener("click", () => {
  if (busy) busy.abort();
  messages = [];
  at("talk").replaceChildren();
  problem("");
  at("text").focus();
});
at("settings").addEventListener("submit", event => event.preventDefault());

/* The key is asked for where the server wants one; it stays in this tab. */
function askKey() {
  const field = el("input", {type: "password", autocomplete: "off", required: true});
  at("settings").replaceChildren(el("label", {}, "API key of this server", field), el("div", {class: "controls"}, el("button", {type: "submit", class: "main"}, "Use")));
  at("side").open = true;
  at("settings").onsubmit = () => { kept.set("key", field.value); at("settings").onsubmit = null; start(); };
  field.focus();
}
async function start() {
  try {
    model = (await (await request("/v1/models")).json()).data[0];
    chosen = kept.get("settings") || {};
    at("model").textContent = `${model.id} · trained as ${model.refusion.objective} · ${player.legend}`;
    document.title = "refusion · " + model.id;
    problem("");
    draw();
    if (document.activeElement === document.body) at("text").focus(); /* the field of the key is gone */
  } catch (error) {
    at("model").textContent = "";
    problem(error.status === 401 ? "This server wants a key." : error instanceof TypeError ? "The server does not answer: is refusion-serve running?" : error.message);
    if (error.status === 401) askKey();
  }
}
start();
