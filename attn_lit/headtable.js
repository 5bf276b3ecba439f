// A table of heads: one analysis at a time, sorted by any column, searched by a head's name or a control's. Its data are
// numbers and text; text is only ever text.
(() => {
  if (!window.attnLit || attnLit.kinds.headtable) return;
  const make = (tag, given = {}, ...inner) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given))
      name.startsWith("on") ? made[name] = value : made.setAttribute(name, value);
    made.append(...inner);
    return made;
  };
  const most = 200; // rows that are drawn at first
  const shown = value => value === null ? "" : typeof value == "number" ? String(value).replace("-", "−") : value;

  // Empty places come last in either order; heads are sorted by layer, then head.
  const compare = (a, b, way, heads) => {
    const empty = v => v === null || v === "";
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const key = v => heads && /^L\d+H\d+$/.test(v) ? v.match(/\d+/g).reduce((sum, n) => sum*100000 + +n, 0) : v;
    const [x, y] = [key(a), key(b)];
    return way*(x < y ? -1 : x > y ? 1 : 0);
  };

  attnLit.kinds.headtable = (place, {analyses}) => {
    let of, by, way, all;
    const select = make("select", {onchange: () => choose(+select.value)},
                        ...analyses.map((a, i) => make("option", {value: i}, a.name)));
    const search = make("input", {type: "search", placeholder: "L3, L3H2 or a control", oninput: () => fill()});
    const only = make("input", {type: "checkbox", onchange: () => fill()});
    const survivors = make("label", {}, only, " only survivors");
    const said = make("output", {class: "al-says"}), more = make("button", {type: "button", onclick: () => {
      all = true; fill();
    }}, "Show all");
    const head = make("tr"), body = make("tbody");
    const table = make("table", {}, make("thead", {}, head), body);
    const box = make("div", {class: "al-wide", tabindex: 0, role: "region", "aria-label": "Table of heads"}, table);
    place.replaceChildren(make("div", {class: "al-bar"}, make("label", {}, "Analysis ", select),
                               make("label", {}, "Search ", search), survivors), box, said, more);

    const fill = () => {
      const at = of.columns.findIndex(([name]) => name == "survives"), what = search.value.trim().toLowerCase();
      const fits = row => (!only.checked || at >= 0 && row[at] == "yes") && (!what || row.some(
        (v, i) => typeof v == "string" && (i ? v.toLowerCase().includes(what) :
          v.toLowerCase() == what || v.toLowerCase().startsWith(what) && !/^\d/.test(v.slice(what.length)))));
      const rows = of.rows.filter(fits).sort((a, b) => compare(a[by], b[by], way, by == 0));
      const some = all ? rows : rows.slice(0, most);
      body.replaceChildren(...some.map(row => make("tr", at >= 0 && row[at] == "yes" ? {class: "al-alive"} : {},
        ...row.map((v, i) => i ? make("td", typeof v == "number" ? {} : {class: "al-word"}, shown(v)) :
          make("th", {scope: "row"}, v)))));
      [...head.children].forEach((cell, i) => cell.setAttribute("aria-sort", i != by ? "none" :
        way > 0 ? "ascending" : "descending"));
      said.textContent = `${rows.length} of ${of.rows.length} heads` +
        (some.length < rows.length ? `, the first ${some.length} shown` : "");
      more.hidden = some.length == rows.length;
      survivors.hidden = at < 0;
    };
    const sort = i => {
      way = i == by ? -way : i == 0 || of.columns[i][0].startsWith("q") || of.columns[i][0].startsWith("p") ? 1 : -1;
      by = i; fill();
    };
    const choose = i => {
      of = analyses[i]; all = false; only.checked = false; by = 0; way = 1;
      head.replaceChildren(...of.columns.map(([name, means], i) => make("th", {scope: "col"},
        make("button", {type: "button", title: means, onclick: () => sort(i)}, name))));
      const q = of.columns.findIndex(([name]) => name == "q");
      q > 0 ? sort(q) : of.columns.length > 1 ? sort(1) : fill();
    };
    if (analyses.length) choose(0);
  };
  attnLit.show();
})()
