"use strict";
// The interactive map, from what stands in the page's element "content": layers in panes of their
// own, a swipe over panes, a legend that follows the layers, pop-ups.
// Texts come from third parties: they are only ever set as text, never as HTML.
(() => {
  const element = (tag, className, parent, text) => {
    const made = L.DomUtil.create(tag, className || "", parent);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function swipe(map, panes, labels, middle) {
    // Below the pop-ups, which a control of the map would cover.
    const pane = map.createPane("swipe");
    const holder = element("div", "swipe", pane);
    const line = element("div", "swipe-line", holder);
    labels.forEach((label) => element("span", "", line, label));
    const range = element("input", "swipe-range", holder);
    const value = (1000 * middle.x) / map.getSize().x;
    Object.assign(range, {type: "range", min: 0, max: 1000, step: 1, value});
    range.setAttribute(
      "aria-label", `Swipe: ${labels[0]} on the left, ${labels[1]} on the right`);
    L.DomEvent.disableClickPropagation(range);
    const update = () => {
      const size = map.getSize();
      const across = (size.x * range.value) / 1000;
      const start = map.containerPointToLayerPoint([0, 0]);
      const end = map.containerPointToLayerPoint(size);
      const cut = start.x + across;
      // Panes have no size of their own; `clip`, unlike `clip-path`, never asks for one.
      const rect = (west, east) => `rect(${start.y}px, ${east}px, ${end.y}px, ${west}px)`;
      panes.left.forEach((name) => { map.getPane(name).style.clip = rect(start.x, cut); });
      panes.right.forEach((name) => { map.getPane(name).style.clip = rect(cut, end.x); });
      L.DomUtil.setPosition(holder, start);
      Object.assign(holder.style, {width: `${size.x}px`, height: `${size.y}px`});
      line.style.left = `${across}px`;
      range.setAttribute("aria-valuetext", `${Math.round(range.value / 10)} %`);
    };
    range.addEventListener("input", update);
    map.on("move zoom viewreset resize", update);
    update();
  }

  function legendPart(parent, part) {
    const section = element("section", "", parent);
    if (part.title) element("h2", "", section, part.title);
    (part.entries || []).forEach((entry) => {
      const row = element("div", "entry", section);
      const sign = element("span", `sign ${entry.kind}`, row);
      if (entry.kind === "fill") sign.style.backgroundColor = entry.colour;
      else sign.style.borderColor = entry.colour;
      element("span", "", row, entry.text);
    });
    if (part.ramp) {
      const ramp = element("div", "ramp", section);
      ramp.style.backgroundImage = `linear-gradient(to right, ${part.ramp.colours.join(", ")})`;
      const ends = element("div", "ends", section);
      element("span", "", ends, part.ramp.low);
      element("span", "", ends, part.ramp.high);
      element("div", "ends", section, part.ramp.text);
    }
    return section;
  }

  function legend(map, sections, notes, narrow) {
    const control = L.control({position: "bottomright"});
    control.onAdd = () => {
      const box = element("details", "legend");
      box.open = !narrow;
      element("summary", "", box, "Legend");
      const parts = sections.map(([layer, part]) => [layer, legendPart(box, part)]);
      const update = () => parts.forEach(([layer, section]) => {
        section.hidden = !map.hasLayer(layer);
      });
      const fit = () => { box.style.maxHeight = `${Math.max(60, map.getSize().y * 0.5)}px`; };
      map.on("layeradd layerremove", update).on("resize", fit);
      update();
      fit();
      notes.forEach((note) => element("p", "", box, note));
      L.DomEvent.disableClickPropagation(box).disableScrollPropagation(box);
      return box;
    };
    control.addTo(map);
  }

  const drawn = new Map();

  function description(layer) {
    const {about, feature} = drawn.get(layer);
    const box = element("section");
    element("h2", "", box, feature.properties.title);
    element("p", "layer", box, about.layer);
    const body = element("tbody", "", element("table", "", box));
    about.labels.forEach((label, place) => {
      const row = element("tr", "", body);
      element("th", "", row, label);
      element("td", "", row, feature.properties.values[place]);
    });
    return box;
  }

  // All outlines under the click, topmost first: an inventory's lies right below a predicted one.
  function describeAll(map, event) {
    const {clientX, clientY} = event.originalEvent;
    const paths = new Map([...drawn.keys()].map((layer) => [layer.getElement(), layer]));
    const found = document.elementsFromPoint(clientX, clientY)
      .map((path) => paths.get(path)).filter(Boolean);
    const content = element("div");
    (found.length ? found : [event.target]).forEach((layer) => {
      content.append(description(layer));
    });
    L.popup({maxWidth: 300}).setLatLng(event.latlng).setContent(content).openOn(map);
  }

  function outlines(map, pane, part, name) {
    return L.geoJSON(part.features, {
      pane,
      smoothFactor: 0.5,
      style: (feature) => ({
        color: part.colour, weight: 2, opacity: 1, fillOpacity: 0,
        dashArray: feature.properties.rock ? "2 5" : null,
      }),
      onEachFeature: (feature, layer) => {
        drawn.set(layer, {feature, about: {layer: name, labels: part.labels}});
        layer.on("click", (event) => describeAll(map, event));
        layer.on("mouseover", () => layer.setStyle({weight: 4}));
        layer.on("mouseout", () => layer.setStyle({weight: 2}));
      },
    });
  }

  // The parts of a layer, each in a pane that keeps its place in the pile, whenever it is shown.
  function group(map, layer, place, bounds, panes) {
    return L.featureGroup(layer.parts.map((part) => {
      const pane = `layer-${place}-${part.side}`;
      Object.assign(map.createPane(pane).style, {zIndex: 300 + place, pointerEvents: "none"});
      if (part.side !== "both") panes[part.side].push(pane);
      if (part.features) return outlines(map, pane, part, layer.name);
      return L.imageOverlay(
        part.image, bounds, {pane, alt: layer.name, className: part.sharp ? "pixelated" : ""});
    }));
  }

  // Leaflet takes the names in its layer switch for HTML.
  const escaped = (text) => element("span", "", null, text).innerHTML;

  function start(options) {
    const map = L.map("map", {zoomSnap: 0.25, maxZoom: 20, center: [0, 0], zoom: 1});
    const narrow = map.getSize().x < 700;
    map.attributionControl.setPrefix("Leaflet");
    L.control.scale({metric: true, imperial: false, maxWidth: 150}).addTo(map);
    const switched = L.control.layers(null, null, {collapsed: narrow}).addTo(map);
    const panes = {left: [], right: []};
    const sections = [];
    // The switch and the legend list the topmost first.
    options.layers.map((layer, place) => [layer, place]).reverse().forEach(([layer, place]) => {
      const made = group(map, layer, place, options.bounds, panes);
      if (layer.shown) made.addTo(map);
      switched.addOverlay(made, escaped(layer.name));
      sections.push([made, layer.legend]);
    });
    const {url, attribution, name} = options.basemap;
    const tiles = L.tileLayer(url, {attribution, maxZoom: 20, maxNativeZoom: 17});
    switched.addOverlay(tiles, escaped(name));
    // Beside the list of layers and the legend where there is room.
    map.fitBounds(
      options.bounds, {animate: false, paddingBottomRight: narrow ? [0, 0] : [260, 0]});
    map.setMinZoom(Math.floor(map.getZoom()) - 2);
    map.setMaxBounds(L.latLngBounds(options.bounds).pad(1));
    const middle = map.latLngToContainerPoint(L.latLngBounds(options.bounds).getCenter());
    if (panes.left.length) swipe(map, panes, options.dates, middle);
    legend(map, sections, options.notes, narrow);
  }

  start(JSON.parse(document.getElementById("content").textContent));
})();
