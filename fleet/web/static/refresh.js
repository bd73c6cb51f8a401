"use strict";
// Swaps in what the server renders, so that everything is escaped in one place: the template.
const overview = document.getElementById("overview");
const stale = document.getElementById("stale");

async function refresh() {
  try {
    const answer = await fetch("/fragment");
    if (!answer.ok) throw new Error(answer.statusText);
    const open = [...overview.querySelectorAll("details")].map((one) => one.open);
    overview.innerHTML = await answer.text();
    overview.querySelectorAll("details").forEach((one, i) => { one.open = Boolean(open[i]); });
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(refresh, 2000);
}

setTimeout(refresh, 2000);
