// What a page with viewers needs once. It finds their places, draws those that need a script, and makes all of them
// work with pointer and keyboard. Plain JavaScript: no library, no request, and no token is ever read as HTML.
(() => {
  if (window.attnLit) return attnLit.show();
  const lit = window.attnLit = {kinds: {}, redraw: [], drawn: 0};

  // A viewer's place names its kind and holds its data; what has no such kind yet waits for the next show().
  lit.show = () => document.querySelectorAll("[data-attn-lit]").forEach(place => {
    const draw = lit.kinds[place.dataset.attnLit];
    if (!draw) return;
    delete place.dataset.attnLit;
    try { draw(place, JSON.parse(place.querySelector("script").textContent)); }
    catch (error) { place.textContent = `This viewer could not be drawn: ${error}`; }
  });

  // An element with attributes, listeners (on…) and children; strings become text.
  const make = (tag, given = {}, ...inner) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given))
      name.startsWith("on") ? made[name] = value : made.setAttribute(name, value);
    made.append(...inner);
    return made;
  };

  // Cells are tokens, heads or places of a table: one of them is in the tab order, arrow keys lead to the others, and
  // a line below says what the pointer or the focus is on.
  const middle = box => (box.left + box.right)/2;
  const beside = (cells, from, down) => {
    const here = from.getBoundingClientRect(), far = [];
    for (const cell of cells) {
      const box = cell.getBoundingClientRect(), gap = down ? box.top - here.bottom : here.top - box.bottom;
      if (gap > -3) far.push([Math.round(gap), Math.abs(middle(box) - middle(here)), cell]);
    }
    far.sort((a, b) => Math.abs(a[0] - b[0]) > 3 ? a[0] - b[0] : a[1] - b[1]);
    return far.length ? far[0][2] : from;
  };
  const reached = (cells, from, key) => {
    const at = cells.indexOf(from);
    if (key == "ArrowRight") return cells[at + 1];
    if (key == "ArrowLeft") return cells[at - 1];
    if (key == "ArrowDown" || key == "ArrowUp") return beside(cells, from, key == "ArrowDown");
    if (key == "Home") return cells[0];
    if (key == "End") return cells[cells.length - 1];
  };
  const rove = (place, tell) => {
    const cells = [...place.querySelectorAll(".al-c")];
    let current = cells[0];
    cells.forEach(cell => { cell.tabIndex = cell == current ? 0 : -1; });
    place.addEventListener("pointerover", event => {
      const cell = event.target.closest(".al-c");
      if (cell) tell(cell);
    });
    place.addEventListener("focusin", event => {
      const cell = event.target.closest(".al-c");
      if (!cell) return;
      current.tabIndex = -1; current = cell; cell.tabIndex = 0;
      tell(cell);
    });
    place.addEventListener("keydown", event => {
      const to = event.ctrlKey || event.altKey || event.metaKey ? null : reached(cells, current, event.key);
      if (!to) return;
      event.preventDefault(); event.stopPropagation(); to.focus();
    });
    return cells;
  };
  const sayIn = place => {
    const line = make("p", {class: "al-says", "aria-hidden": "true"}, place.dataset.hint || "");
    place.after(line);
    return cell => { line.textContent = cell.title; };
  };
  lit.kinds.cells = place => { rove(place, sayIn(place)); };

  // A head map: a click, Enter or Space on a head shows its pattern, if the figure has patterns.
  lit.kinds.map = (place, {heads}) => {
    const cells = rove(place, sayIn(place));
    const pattern = place.closest("figure").querySelector(".al-pattern");
    if (!pattern) return;
    const mark = (layer, head) =>
      cells.forEach((cell, i) => cell.setAttribute("aria-selected", i == layer*heads + head));
    const open = event => {
      const at = cells.indexOf(event.target.closest(".al-c"));
      if (at >= 0 && pattern.attnLit) pattern.attnLit(Math.floor(at/heads), at % heads);
      return at >= 0;
    };
    pattern.addEventListener("attn-lit-head", event => mark(...event.detail));
    place.addEventListener("click", open);
    place.addEventListener("keydown", event => {
      if (event.key != "Enter" && event.key != " ") return;
      if (open(event)) { event.preventDefault(); event.stopPropagation(); }
    });
  };

  // A weight is a byte on a square root scale. All weights: row q has keys 0 … q. Or the largest few of each query:
  // three bytes each, two of them the key. Either way: n × n bytes, with 0 where nothing is known.
  const weight = byte => (byte/255)**2, digits = byte => byte && byte < 26 ? 4 : byte < 81 ? 3 : 2; // as many as hold
  const unpack = (packed, n, top) => {
    const from = Uint8Array.from(atob(packed), c => c.charCodeAt(0)), to = new Uint8Array(n*n);
    for (let q = 0, i = 0; q < n; q++)
      if (!top) to.set(from.subarray(i, i += q + 1), q*n);
      else for (let j = 0; j < top; j++, i += 3) if (from[i + 2]) to[q*n + from[i] + 256*from[i + 1]] = from[i + 2];
    return to;
  };

  // 256 colours between the three that the style sheet gives for the theme.
  const palette = place => {
    const style = getComputedStyle(place);
    const ends = ["--al-w0", "--al-w1", "--al-w2"].map(name => {
      const code = parseInt(style.getPropertyValue(name).trim().slice(1), 16);
      return [code >> 16, code >> 8 & 255, code & 255];
    });
    return Array.from({length: 256}, (_, b) => {
      const at = b/127.5, low = ends[Math.min(Math.floor(at), 1)], high = ends[Math.min(Math.floor(at), 1) + 1];
      const part = at - Math.min(Math.floor(at), 1);
      return low.map((v, i) => Math.round(v + part*(high[i] - v)));
    });
  };
  // Whether black has more contrast with a colour than white has, by its luminance.
  const light = rgb => rgb.reduce((sum, v, i) => sum + [.2126, .7152, .0722][i]*(v/255)**2.2, 0) > .179;

  // One pixel a weight; where there are more weights than `most` a side, each pixel is the largest of a square of them.
  const paint = (canvas, cells, n, colours, most) => {
    const s = Math.ceil(n/most), m = Math.ceil(n/s), best = new Uint8Array(m*m);
    for (let q = 0; q < n; q++) for (let k = 0; k <= q; k++) {
      const at = Math.floor(q/s)*m + Math.floor(k/s);
      if (cells[q*n + k] > best[at]) best[at] = cells[q*n + k];
    }
    canvas.width = canvas.height = m;
    const pen = canvas.getContext("2d"), image = pen.createImageData(m, m);
    for (let row = 0; row < m; row++) for (let column = 0; column <= row; column++) {
      const at = row*m + column;
      image.data.set([...colours[best[at]], 255], 4*at);
    }
    pen.putImageData(image, 0, 0);
    return s;
  };

  // Patterns: a layer switch, a small picture of each of its heads, one of them large, and the text, coloured by what
  // the chosen query reads.
  lit.kinds.pattern = (place, data) => {
    const {tokens, heads, packed, top, start} = data, n = tokens.length, layers = [...new Set(heads.map(h => h[0]))];
    let layer, head, cells, known = {}, query = n - 1, key = 0, step = 1, colours;
    const select = make("select", {onchange: () => choose(+select.value)},
                        ...layers.map(l => make("option", {value: l}, String(l))));
    const row = make("div", {class: "al-thumbs", role: "group", "aria-label": "Heads of this layer"});
    const canvas = make("canvas", {tabindex: 0, role: "application", "aria-roledescription": "attention pattern"});
    const across = make("i", {class: "al-across"}), down = make("i", {class: "al-down"});
    const says = make("output", {class: "al-says"});
    const text = make("p", {class: "al-text", dir: "ltr", role: "list", "aria-label": "The text, by what is read"},
                      ...tokens.map((token, i) =>
                        make("span", {class: "al-c", role: "listitem", title: `position ${i}`}, token)));
    const spans = [...text.children];
    const layerSwitch = make("label", {}, "Layer ", select);
    layerSwitch.hidden = layers.length == 1;
    place.replaceChildren(make("div", {class: "al-bar"}, layerSwitch, row),
                          make("div", {class: "al-box"}, canvas, across, down), says, text);

    const point = (q, k) => {
      query = Math.min(Math.max(q, 0), n - 1); key = Math.min(Math.max(k, 0), query);
      const byte = cells[query*n + key];
      const size = top && !byte ? `not among its ${top} largest` : weight(byte).toFixed(digits(byte));
      const name = i => `${tokens[i].trim() || "·"} (${i})`, here = spans[query];
      says.textContent = `L${layer}H${head}: query ${name(query)} reads key ${name(key)}: ${size}`;
      if (here.offsetTop < text.scrollTop || here.offsetTop > text.scrollTop + text.clientHeight - 20)
        text.scrollTop = here.offsetTop - text.clientHeight/2;
      const part = i => `${100*i/n}%`;
      Object.assign(across.style, {top: part(query), height: part(1)});
      Object.assign(down.style, {left: part(key), width: part(1)});
      spans.forEach((span, i) => {
        const colour = colours[i > query ? 0 : cells[query*n + i]];
        span.style.backgroundColor = i > query ? "" : `rgb(${colour})`;
        span.style.color = i > query ? "" : light(colour) ? "#000" : "#fff";
        span.classList.toggle("al-query", i == query);
        span.classList.toggle("al-key", i == key);
      });
    };
    const most = (q, from = 0, to = q) => { // the largest weight of a query
      let best = from;
      for (let k = from; k <= to; k++) if (cells[q*n + k] > cells[q*n + best]) best = k;
      return best;
    };
    const draw = () => {
      colours = palette(place);
      [...row.children].forEach(button => {
        paint(button.querySelector("canvas"), known[button.value], n, colours, 56);
        button.setAttribute("aria-pressed", +button.value == head);
      });
      step = paint(canvas, cells, n, colours, 640);
      canvas.setAttribute("aria-label", `Attention of layer ${layer}, head ${head} on ${n} tokens: arrow keys move`);
      point(query, key);
    };
    const choose = (l, h) => {
      if (l != layer) {
        const of = heads.map((at, i) => [...at, i]).filter(at => at[0] == l);
        known = Object.fromEntries(of.map(([, name, i]) => [name, unpack(packed[i], n, top)]));
        row.replaceChildren(...of.map(([, name]) => make("button", {type: "button", value: name,
          onclick: () => choose(l, name)}, make("canvas", {"aria-hidden": "true"}), `L${l}H${name}`)));
        if (!known[h ?? head]) h = of[0][1];
        layer = l; select.value = l;
      }
      head = h ?? head; cells = known[head]; key = most(query);
      draw();
      place.dispatchEvent(new CustomEvent("attn-lit-head", {detail: [layer, head]}));
    };
    let waiting = null; // the pointer's last place, until the next frame
    canvas.onpointermove = canvas.onpointerdown = event => {
      const box = canvas.getBoundingClientRect(), at = (x, size) => Math.floor(x/size*n);
      if (!waiting) requestAnimationFrame(() => { waiting(); waiting = null; });
      const q0 = at(event.clientY - box.top, box.height), k0 = at(event.clientX - box.left, box.width);
      waiting = () => {
        let best = [q0, k0]; // the square of weights that the pixel shows: its largest
        for (let q = q0 - q0 % step; q < Math.min(q0 - q0 % step + step, n); q++) {
          const k = most(q, Math.min(k0 - k0 % step, q), Math.min(k0 - k0 % step + step - 1, q));
          if (step > 1 && cells[q*n + k] > (cells[best[0]*n + best[1]] || 0)) best = [q, k];
        }
        point(...best);
      };
    };
    canvas.onkeydown = event => {
      const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
                    PageUp: [-20, 0], PageDown: [20, 0], Home: [-n, -n], End: [n, n]}[event.key];
      if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault(); event.stopPropagation();
      point(query + move[0], key + move[1]);
    };
    rove(text, span => { const q = spans.indexOf(span); point(q, most(q)); });
    lit.redraw.push(draw);
    place.attnLit = choose;
    choose(...start);
  };

  // Another theme: the colours of the canvases follow.
  const again = () => requestAnimationFrame(() => lit.redraw.forEach(draw => draw()));
  const watch = new MutationObserver(again), seen = {attributes: true,
    attributeFilter: ["class", "theme", "data-theme", "data-jp-theme-light", "data-vscode-theme-kind"]};
  watch.observe(document.documentElement, seen);
  const ready = () => { watch.observe(document.body, seen); lit.show(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  document.body ? ready() : addEventListener("DOMContentLoaded", ready);
})()
