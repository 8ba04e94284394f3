// The way back into Airflow's own pages. In a tab of Airflow this page is a frame, which may not move the
// window around it: Airflow's router is told instead, and it follows without loading anything.

const PAGE = /\/aisa\/[a-z]+$/;
const base = location.pathname.replace(PAGE, "");

// What this page is asked to show. Airflow 3.1 writes ids into its address as they are, and those of runs have a
// plus sign, which would be read as a space.
export const address = new URLSearchParams(location.search.replaceAll("+", "%2B"));

export const isTab = window.parent !== window;

const mayDownload = !isTab || Boolean(window.frameElement?.sandbox.contains("allow-downloads"));

// Download what a link leads to; for onclick of an <a>.
export function download(event) {
  if (mayDownload) return;
  event.preventDefault();
  clickAround({ href: event.currentTarget.href, download: "" });
}

// As Airflow's router writes them: a tab is highlighted only when its address is the same to the letter.
const segment = (id) => encodeURIComponent(id).replace(/%(3A|2B|40)/g, decodeURIComponent);

export function taskPath(dagId, runId, taskId, mapIndex) {
  const path = `${runPath(dagId, runId)}/tasks/${segment(taskId)}`;
  return mapIndex >= 0 ? `${path}/mapped/${mapIndex}` : path;
}

export function runPath(dagId, runId) {
  return `${dagPath(dagId)}/runs/${segment(runId)}`;
}

export function dagPath(dagId) {
  return `${base}/dags/${segment(dagId)}`;
}

// The tab of a run that shows this gallery.
export function runTabPath(dagId, runId) {
  return `${runPath(dagId, runId)}/plugin/images-dag-run`;
}

// Follow a link that leads into Airflow; for onclick of an <a>.
export function follow(event) {
  if (!isTab) return;
  event.preventDefault();
  const { href } = event.currentTarget;
  if (event.ctrlKey || event.metaKey || event.shiftKey) {
    openWindow(href);
    return;
  }
  window.parent.history.pushState(null, "", href);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
}

// Open an address in a window of its own.
export function openWindow(href) {
  clickAround({ href, target: "_blank", rel: "noopener" });
}

// Click on a link of the page around this one: a frame of Airflow 3.1 may not download nor open windows.
function clickAround(attributes) {
  Object.assign(window.parent.document.createElement("a"), attributes).click();
}
