"use strict";
// All of the page can be read without this: it adds a filter of builds, and a larger timeline with the times of one build.
for (const timeline of document.querySelectorAll(".timeline")) {
  const plot = timeline.querySelector(".scroll > svg");
  const tools = document.createElement("div");
  const detail = document.createElement("p");
  tools.className = "tools";
  detail.className = "detail";
  detail.setAttribute("role", "status");
  detail.textContent = "Choose a build in the chart to read its times.";
  let zoom = 1;
  const buttons = [["Zoom out", 0.5], ["Zoom in", 2], ["Whole time", 0]].map(([name, factor]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => set(factor ? zoom * factor : 1));
    tools.append(button);
    return button;
  });
  const set = (next) => {
    const scroll = plot.parentElement;
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
    zoom = Math.min(64, Math.max(1, next));
    plot.setAttribute("width", zoom * 100 + "%");
    timeline.classList.toggle("zoomed", zoom > 2);
    scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
    buttons[0].disabled = buttons[2].disabled = zoom === 1;
    buttons[1].disabled = zoom === 64;
  };
  set(1);
  plot.addEventListener("click", (event) => {
    const mark = event.target.closest(".mark");
    timeline.querySelector(".chosen")?.classList.remove("chosen");
    if (mark) {
      mark.classList.add("chosen");
      detail.textContent = mark.querySelector("title").textContent;
    }
  });
  timeline.before(tools);
  timeline.after(detail);
}
for (const table of document.querySelectorAll("table.filtered")) {
  const rows = [...table.tBodies[0].rows];
  const tools = document.createElement("div");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const found = document.createElement("span");
  tools.className = "tools";
  label.textContent = "Show builds with ";
  label.htmlFor = input.id = "filter";
  input.type = "search";
  input.placeholder = "name, machine, outcome, user";
  found.className = "quiet";
  found.setAttribute("role", "status");
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    found.textContent = words.length ? count + " of " + rows.length + " rows" : "";
  };
  input.addEventListener("input", show);
  tools.append(label, input, found);
  table.parentElement.before(tools);
}
