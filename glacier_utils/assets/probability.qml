<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" nodataColor="" classificationMin="0" classificationMax="1">
      <rasterTransparency />
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" minimumValue="0" maximumValue="1" labelPrecision="2">
          <item value="0" label="0" color="#00224e" alpha="255" />
          <item value="0.1" label="0.1" color="#083370" alpha="255" />
          <item value="0.2" label="0.2" color="#35456c" alpha="255" />
          <item value="0.3" label="0.3" color="#4f576c" alpha="255" />
          <item value="0.4" label="0.4" color="#666970" alpha="255" />
          <item value="0.5" label="0.5" color="#7d7c78" alpha="255" />
          <item value="0.6" label="0.6" color="#948e77" alpha="255" />
          <item value="0.7" label="0.7" color="#aea371" alpha="255" />
          <item value="0.8" label="0.8" color="#c8b866" alpha="255" />
          <item value="0.9" label="0.9" color="#e5cf52" alpha="255" />
          <item value="1" label="1" color="#fee838" alpha="255" />
        </colorrampshader>
      </rastershader>
    </rasterrenderer>
  </pipe>
</qgis>
