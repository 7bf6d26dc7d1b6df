// Keeps the running round up to date. Without it the page shows what was true when it was loaded.
"use strict";
(() => {
  const panel = document.querySelector("[data-job]");
  if (!panel) return;
  const everyMs = 2000;
  const lost = panel.querySelector("[data-lost]");

  function show(job) {
    for (const field of panel.querySelectorAll("[data-field]")) {
      field.textContent = job[field.dataset.field] || "–";
    }
    const bar = panel.querySelector("[data-share]");
    if (job.share === null) bar.removeAttribute("value");
    else bar.value = job.share;
  }

  function showWorker(worker) {
    const sign = document.querySelector("[data-sign=worker]");
    sign.classList.toggle("good", worker.good);
    sign.classList.toggle("bad", !worker.good);
    sign.querySelector("[data-text]").textContent = worker.text;
  }

  async function look() {
    if (document.hidden) return;
    let answer;
    try {
      answer = await fetch(panel.dataset.job, { redirect: "error" });
    } catch {
      lost.hidden = false;
      return;
    }
    lost.hidden = true;
    // Logged out meanwhile: the page itself leads to the form.
    if (answer.status === 401) return location.reload();
    if (!answer.ok) return;
    const { job, worker } = await answer.json();
    const round = job ? String(job.round) : "";
    // A round has begun or ended: every table has changed.
    if (round !== panel.dataset.round) return location.reload();
    if (job) show(job);
    showWorker(worker);
  }

  async function forever() {
    await look();
    setTimeout(forever, everyMs);
  }
  setTimeout(forever, everyMs);
})();
